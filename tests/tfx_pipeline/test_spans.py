import json
from pathlib import Path

import pytest

from beam_transforms.schema import CHAT_SCHEMA, schema_to_json
from tfx_pipeline.spans import read_schema, require_span

MANIFEST = {"newest_event_ms": 1, "train": 5, "eval": 2}


@pytest.fixture
def examples(tmp_path) -> Path:
    """A folder with the complete spans 3 and 12; what is in the example files doesn't matter here."""
    for span in (3, 12):
        for split in ("train", "eval"):
            folder = tmp_path / f"Span-{span}" / split
            folder.mkdir(parents=True)
            (folder / "examples-00000-of-00002.tfrecord").write_bytes(b"")
            (folder / "examples-00001-of-00002.tfrecord").write_bytes(b"record")
        (tmp_path / f"Span-{span}" / "manifest.json").write_text(json.dumps(MANIFEST | {"span": span}))
    (tmp_path / "schema.json").write_text(json.dumps(schema_to_json(CHAT_SCHEMA)))
    return tmp_path


def test_a_complete_span_is_found(examples):
    assert require_span(examples, 12) == examples / "Span-12"
    assert read_schema(examples) == CHAT_SCHEMA


def test_a_missing_span_names_those_that_are_there(examples):
    with pytest.raises(ValueError, match=r"there is no Span-4 in .*; it has the spans 3, 12"):
        require_span(examples, 4)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(ValueError, match="it has no span at all"):
        require_span(tmp_path, 0)


def test_a_span_without_a_manifest_is_not_complete(examples):
    (examples / "Span-3" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"Span-3/manifest.json is missing: the manifest that completes a span"):
        require_span(examples, 3)


def test_a_manifest_must_say_how_many_examples_there_are(examples):
    (examples / "Span-3" / "manifest.json").write_text(json.dumps({"span": 3, "newest_event_ms": 1, "eval": 2}))
    with pytest.raises(ValueError, match=r"manifest.json lacks \['train'\]"):
        require_span(examples, 3)


def test_a_split_whose_files_are_empty_has_no_example(examples):
    (examples / "Span-3" / "train" / "examples-00001-of-00002.tfrecord").write_bytes(b"")
    with pytest.raises(ValueError, match="span 3 has no example to train on: 2 empty files"):
        require_span(examples, 3)


def test_a_split_without_files_has_no_example(examples):
    for path in (examples / "Span-12" / "eval").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"span 12 has no example to evaluate on: no \*.tfrecord"):
        require_span(examples, 12)


@pytest.mark.parametrize(("content", "said"), [("{", "can't be read as JSON"), ("[]", "holds a list"), ("{}", "not a")])
def test_a_broken_schema_is_named(examples, content, said):
    (examples / "schema.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_schema(examples)
