import pytest

from tests.tfx_pipeline.synthetic_examples import example_columns, write_examples

pytestmark = pytest.mark.slow  # TFX takes 15 seconds to import


@pytest.fixture
def files(tmp_path, small_schema):
    import numpy as np

    columns = example_columns(small_schema, 1, 30, np.random.default_rng(0))
    write_examples(tmp_path / "a.tfrecord", columns, slice(0, 20))
    write_examples(tmp_path / "b.tfrecord", columns, slice(20, 30))
    return [tmp_path / "a.tfrecord", tmp_path / "b.tfrecord"]


def _require_records(*arguments):
    from tfx_pipeline.components.span_example_gen import require_records

    require_records(*arguments)


def test_whole_files_pass(files):
    _require_records(files, 30)


def test_a_missing_file_is_noticed(files):
    with pytest.raises(ValueError, match="holds 20 examples and its manifest says 30"):
        _require_records(files[:1], 30)


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:]])
def test_a_damaged_file_is_named(files, damage):
    files[1].write_bytes(damage(files[1].read_bytes()))
    with pytest.raises(ValueError, match=r"b.tfrecord is damaged: .*; write its span again"):
        _require_records(files, 30)


def test_files_are_linked_not_copied(files, tmp_path):
    from tfx_pipeline.components.span_example_gen import link_or_copy

    link_or_copy(files[0], tmp_path / "linked")
    assert (tmp_path / "linked").stat().st_ino == files[0].stat().st_ino


def test_files_are_copied_where_they_cannot_be_linked(files, tmp_path, monkeypatch):
    import os

    from tfx_pipeline.components.span_example_gen import link_or_copy

    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(files[0], tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == files[0].read_bytes()
