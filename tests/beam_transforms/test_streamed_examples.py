"""Files of streamed examples and lines: their names and bytes follow from what they hold, whatever its order."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_transforms.columnar import take
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, schema_from_json
from beam_transforms.spans import SpanPlan
from beam_transforms.streamed_examples import write_examples
from beam_transforms.streamed_lines import write_lines
from beam_transforms.window_files import remove_temporaries, replace_file
from tests.beam_transforms.event_logs import NOON_MS, read_examples

PLAN = SpanPlan(600_000)
LATENESS_MS = 45_000
ROW = st.tuples(st.integers(0, 1100), st.integers(0, 2), st.integers(0, 2), st.integers(1, 90), st.integers(0, 1))


def _examples(rows) -> dict[str, np.ndarray]:
    """Examples of (second, user, room, seconds until the label, first label)."""
    seconds, users, rooms, later, label = np.array(rows, dtype=np.int64).T
    rng = np.random.default_rng(0)
    examples = {}
    for feature in LIVE_SCHEMA.features:
        values = rng.normal(size=(1, feature.size)) if feature.dtype == "float32" else np.ones((1, feature.size))
        column = np.repeat(values, len(rows), axis=0).astype(feature.dtype)
        examples[feature.name] = column if feature.shape else column[:, 0]
    examples["timestamp_ms"] = NOON_MS + seconds * 1000
    examples |= {"user_id": users, "live_id": rooms, "emitted_ms": examples["timestamp_ms"] + later * 1000}
    examples["label"][:, 0] = label
    return examples


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=40), seed=st.integers(0, 99), shards=st.integers(1, 3))
def test_order_changes_nothing_and_nothing_is_lost(tmp_path_factory, rows, seed, shards):
    examples, folders = _examples(rows), [tmp_path_factory.mktemp("examples") for _ in range(2)]
    order = np.random.default_rng(seed).permutation(len(rows))
    for folder, given_ in zip(folders, (examples, take(examples, order)), strict=True):
        written = write_examples(folder, LIVE_SCHEMA, PLAN, shards, LATENESS_MS, given_)
        assert sum(count for _, count in written) == len(rows)
    assert _files(folders[0]) == _files(folders[1])
    assert schema_from_json(json.loads((folders[0] / "schema.json").read_text())) == LIVE_SCHEMA
    found = read_examples(folders[0], LIVE_SCHEMA)
    keys = ("timestamp_ms", "user_id", "live_id")
    assert sorted(zip(*(found[n].tolist() for n in keys), found["label"][:, 0].tolist(), strict=True)) == sorted(
        zip(*(examples[n].tolist() for n in keys), examples["label"][:, 0].tolist(), strict=True)
    )


def test_files_are_named_by_span_part_window_and_shard(tmp_path):
    """A label that is known at a window's end less the lateness comes in that window, and one later in the next."""
    rows = [(100, 1, 1, 5, 0), (110, 1, 1, 25, 0), (110, 1, 1, 26, 0), (590, 1, 1, 25, 0)]
    examples = _examples(rows)
    examples["emitted_ms"][1:3] = NOON_MS + 135_000 + np.array([0, 1])
    written = write_examples(tmp_path, LIVE_SCHEMA, PLAN, 1, LATENESS_MS, examples)
    span = NOON_MS // 600_000
    wanted = [("train", 150, 1), ("train", 180, 1), ("train", 210, 1), ("eval", 660, 1)]
    assert sorted(written) == sorted(
        (f"{tmp_path}/Span-{span}/{part}/examples-{NOON_MS + end * 1000}-00000-of-00001.tfrecord", count)
        for part, end, count in wanted
    )
    assert all((NOON_MS + end * 1000) % WINDOW_MS == 0 for _, end, _ in wanted)
    # Windows that are written by themselves or together give the same files.
    before = _files(tmp_path)
    for row in range(len(rows)):
        write_examples(tmp_path / "single", LIVE_SCHEMA, PLAN, 1, LATENESS_MS, take(examples, np.array([row])))
    assert _files(tmp_path / "single") == before


def test_lines_are_sorted_and_without_lines_there_is_no_file(tmp_path):
    assert write_lines(tmp_path / "a.jsonl", [b"2\n1\n", b"0\n"]) == [(str(tmp_path / "a.jsonl"), 3)]
    assert (tmp_path / "a.jsonl").read_bytes() == b"0\n1\n2\n"
    assert write_lines(tmp_path / "b.jsonl", [b""]) == [] and not (tmp_path / "b.jsonl").exists()


def test_a_file_is_whole_or_as_it_was(tmp_path):
    replace_file(tmp_path / "file", lambda path: path.write_text("old"))

    def fails(path):
        path.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(tmp_path / "file", fails)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_says_which_file(tmp_path):
    def fails(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
        replace_file(tmp_path / "file", fails)


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    for name in (".file.123", ".file", ".lock", "file.5", ".a.jsonl.77"):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".file", ".lock", "file.5"}
