"""The streaming pipeline on a Beam runner that streams, against the batch pipeline and the local stream."""

import dataclasses
import json
import re
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_transforms import online_features, product_sequences, room_stage, schema, statistics
from beam_transforms.codebook import Codebook
from beam_transforms.columnar import mix, to_columns
from beam_transforms.content import segment_batch
from beam_transforms.encode_event_lines import encode_event_lines
from beam_transforms.events import event_batch
from beam_transforms.feature_stages import stages
from beam_transforms.labels import FastWindow
from beam_transforms.local_stream import CHECKPOINT, LocalStream
from beam_transforms.pipeline import build_examples
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, EventKind
from beam_transforms.sources.line_files import LineFiles
from beam_transforms.spans import SpanPlan
from beam_transforms.stage import StageState, advance
from beam_transforms.stream_segments import quantize
from beam_transforms.streamed_lines import late_lines
from beam_transforms.streaming import _OfWidth, build_stream
from tests.beam_transforms.event_logs import NOON_MS, log, read_examples
from tests.beam_transforms.live_logs import CODEBOOK, LENGTHS, SCHEMA, WIDTH, arrivals, follow, live_log, put, stored
from tests.beam_transforms.replayed import RUNNER, ReplayedEvents

PLAN = SpanPlan(600_000)
POLICY = FastWindow(60)
LATENESS_MS = 60_000
ARGUMENTS = {"schema": SCHEMA, "plan": PLAN, "policy": POLICY, "codebook": CODEBOOK, "lateness_ms": LATENESS_MS}
SHORT = dataclasses.replace(LIVE_SCHEMA, sequence_length=6, entered_authors_length=4)


def _line(**fields) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _segment(second, embedding, **fields) -> bytes:
    return _line(kind="SEGMENT", timestamp_ms=NOON_MS + second * 1000, author_id=0, embedding=embedding, **fields)


DAMAGED = {
    b"no json\n": "JSON|line",
    _segment(150, [1.0] * WIDTH): "live_id",
    _segment(151, [1.0] * (WIDTH + 1), live_id=1): "3 floats",
    _segment(152, [float("nan")] * WIDTH, live_id=1): "finite",
    _line(kind="LIKE", timestamp_ms=NOON_MS, author_id=0, live_id=0): "user_id",
}


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != CHECKPOINT
    }


def _run(folder: Path, live: Path, idle_s: int = 120, **arguments) -> None:
    with beam.Pipeline(options=PipelineOptions(list(RUNNER))) as pipeline:
        build_stream(pipeline, ReplayedEvents(follow(live), idle_s), folder, **(ARGUMENTS | arguments))


def _lines(files: dict[str, bytes], folder: str) -> list[bytes]:
    return sorted(line for name, data in files.items() if name.startswith(folder + "/") for line in data.splitlines())


@pytest.mark.slow
def test_a_runner_that_streams_gives_the_files_of_a_batch_and_of_the_local_stream(tmp_path):
    """Shuffled, doubled and late rows, rows that are too late, damaged ones; batch reads the late ones, too."""
    whole = live_log(1, minutes=8)
    # Nothing later than this: all labels are known by then.
    end = encode_event_lines(event_batch([16], [NOON_MS + 660_000], [-1], [0], [0], [1.0]))
    too_late = live_log(2, minutes=2, events=20)
    blocks = arrivals(whole, 3, LATENESS_MS)
    blocks[len(blocks) * 3 // 4] += b"".join(encode_event_lines(batch) for batch in too_late.values())
    blocks[len(blocks) // 2] += b"".join(DAMAGED)
    live = put(tmp_path / "live", [*blocks, end])
    _run(tmp_path / "beam", live, shards=2)
    local = LocalStream(follow(live), tmp_path / "local", shards=2, **ARGUMENTS).run()
    by_beam, by_hand = _files(tmp_path / "beam"), _files(tmp_path / "local")

    late = {name: batch.num_rows for name, batch in too_late.items()}
    assert local["late_events"] == late["events"] and local["late_products"] == late["products"]
    assert local["late_semantic_ids"] == late["segments"]
    assert _lines(by_beam, "late") == _lines(by_hand, "late") and len(_lines(by_beam, "late")) == sum(late.values())

    letters = [json.loads(line) for line in _lines(by_beam, "dead_letters")]
    assert len(letters) == local["dead_letters"] == len(DAMAGED)
    for line, reason in DAMAGED.items():
        shown = [x for x in letters if x["text"] == line.decode().strip() or x["file"] == "segments"]
        assert any(re.search(reason, letter["reason"]) for letter in shown), (line, letters)
    assert _lines(by_hand, "dead_letters") == _lines(by_beam, "dead_letters")

    for files in (by_beam, by_hand):
        for name in [name for name in files if name.startswith(("late", "dead_letters"))]:
            del files[name]
    assert sorted(by_beam) == sorted(by_hand)
    assert [name for name in by_beam if by_beam[name] != by_hand[name]] == []

    on_time = put(tmp_path / "on_time", [*arrivals(whole, 4, 1, doubled=0), end])
    found = read_examples(tmp_path / "beam", SCHEMA)
    options = {"codebook": CODEBOOK, "content_lengths": LENGTHS}
    build_examples(LineFiles([on_time], SHORT, WIDTH, True), tmp_path / "batch", PLAN, POLICY, **options)
    expected = read_examples(tmp_path / "batch", SCHEMA)
    assert len(expected["live_id"]) > 80
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)

    # A later batch run has what came too late.
    everything = put(
        tmp_path / "everything", [b"".join(encode_event_lines(x) for x in (*whole.values(), *too_late.values())), end]
    )
    for number, folders in enumerate(([on_time, tmp_path / "beam" / "late"], [everything])):
        build_examples(LineFiles(folders, SHORT, WIDTH, True), tmp_path / str(number), PLAN, POLICY, **options)
    later, wanted = (read_examples(tmp_path / str(number), SCHEMA) for number in range(2))
    assert len(wanted["live_id"]) > len(expected["live_id"])
    for name, values in wanted.items():
        np.testing.assert_array_equal(later[name], values, err_msg=name)


@pytest.mark.slow
def test_a_runner_that_streams_leaves_the_store_of_the_local_stream_at_each_window(tmp_path, monkeypatch):
    live = put(tmp_path / "live", arrivals(live_log(5, minutes=4, events=120, rooms=3), 6, LATENESS_MS))
    # A memory of minutes and not of hours: when the stream has ended, the runner steps on until all is forgotten.
    for module in (schema, statistics, room_stage, product_sequences):
        monkeypatch.setattr(module, "ROOM_MEMORY_MS", 180_000)
    lookbacks = tuple(dataclasses.replace(history, lookbacks_s=(60,)) for history in SCHEMA.histories)
    arguments = {"schema": dataclasses.replace(SCHEMA, histories=lookbacks)}
    seen: dict[int, dict] = {}
    write_window = online_features.write_window

    def recorded(store, kind, as_of_ms, rows, replace=False):
        live_rooms = write_window(store, kind, as_of_ms, rows, replace)
        if as_of_ms <= NOON_MS + 600_000:  # before the watermark is infinite, where this runner keeps no order
            seen[as_of_ms] = stored(store.location, kind, as_of_ms)
        return live_rooms

    monkeypatch.setattr(online_features, "write_window", recorded)
    _run(tmp_path / "beam", live, idle_s=420, shards=1, store=tmp_path / "beam_store", **arguments)
    monkeypatch.setattr(online_features, "write_window", write_window)
    compared = 0
    stream = LocalStream(follow(live), tmp_path / "local", store=tmp_path / "store", **(ARGUMENTS | arguments))
    for window in stream.windows():
        if window.end_ms in seen and window.end_ms <= NOON_MS + 240_000:
            assert seen[window.end_ms] == stored(tmp_path / "store", arguments["schema"], window.end_ms)
            compared += 1
    assert compared >= 5
    # Windows without an event: the head goes on while a room is live, and says when none is any longer.
    ends = sorted(seen)
    assert np.diff(ends).tolist() == [WINDOW_MS] * (len(ends) - 1)
    assert seen[ends[len(ends) // 2]]["live"] and not seen[ends[-1]]["live"]
    assert NOON_MS + 300_000 < ends[-1] < NOON_MS + 600_000


def test_semantic_ids_of_another_codebook_are_refused_with_both_named():
    other = Codebook(CODEBOOK.codes + 1)
    with pytest.raises(ValueError, match=f"{CODEBOOK.version}.*{other.version}"):
        build_stream(beam.Pipeline(), beam.Create([]), Path("x"), SCHEMA, PLAN, codebook=other)
    with pytest.raises(ValueError, match="got no codebook"):
        LocalStream(follow(Path("x")), Path("x"), SCHEMA, PLAN)


def test_the_shard_of_a_hot_room_gets_rows_of_windows_not_events():
    """A room with 100 times the events of the others: what its shard gets grows with user shards, not with events."""
    rng = np.random.default_rng(1)
    rooms = np.concatenate([np.zeros(40_000, np.int64), rng.integers(1, 5, 400)])
    count, shards = len(rooms), 16
    batch = event_batch(
        rng.choice([1, 2, 5], count), NOON_MS + rng.integers(0, 60_000, count), rng.integers(0, 9_000, count),
        rooms, rooms, np.ones(count),
    )  # fmt: skip
    events = to_columns([batch])
    user, author, room = stages(LIVE_SCHEMA, POLICY)
    shard = mix(events["user_id"]) % np.uint64(shards)
    raw, to_rooms, to_authors = [], [], []
    for number in range(shards):
        rows = {name: values[shard == number] for name, values in events.items()}
        raw.append(len(rows["live_id"]))
        _, found = advance(user, StageState.first(user), {"events": [rows]}, NOON_MS + 60_000, 0)
        to_rooms.append(int((found["room_windows"]["live_id"] == 0).sum()))
        to_authors.append(int((found["windows_author"]["author_id"] == 0).sum()))
    print(f"events a user shard {min(raw)}..{max(raw)}; rows for the hot room's shard {sum(to_rooms)}")
    assert max(raw) < 1.1 * np.mean(raw)
    assert to_rooms == to_authors == [2] * shards  # two windows
    assert "events" not in room.inputs and "events" not in author.inputs


def test_late_rows_become_lines_that_give_the_rows_again(tmp_path):
    likes = log((EventKind.LIKE, 1, 2, 3, 4, 1.5))
    ids = {name: np.array([7, 8]) for name in ("live_id", "author_id", "timestamp_ms")}
    ids = {**ids, "timestamp_ms": NOON_MS + ids["timestamp_ms"], "semantic_id": np.array([4, 0])}
    lines = late_lines("late_events", pa.RecordBatch.from_pydict(likes)) + late_lines(
        "late_semantic_ids", pa.RecordBatch.from_pydict(ids), CODEBOOK
    )
    (tmp_path / "1.jsonl").write_bytes(lines)
    source = LineFiles([tmp_path], SCHEMA, WIDTH)
    (events,) = source.read(source.partitions()[0])
    (segments,) = source.read_segments(source.segment_partitions()[0])
    assert events.to_pydict() == pa.RecordBatch.from_pydict(likes).to_pydict()
    found = to_columns([segments])
    assert CODEBOOK.assign(found["embedding"]).tolist() == [4, 0]
    assert found["timestamp_ms"].tolist() == ids["timestamp_ms"].tolist()
    assert late_lines("late_impressions", pa.RecordBatch.from_pydict(likes)) == b""
    with pytest.raises(ValueError, match="give the codebook"):
        late_lines("late_semantic_ids", pa.RecordBatch.from_pydict(ids))


def test_segments_of_another_width_are_dead_letters_even_where_the_source_lets_them_pass():
    ids = np.array([1, 2])
    wide = segment_batch(ids, ids, NOON_MS + ids, np.ones((2, WIDTH + 1)))
    letters = list(_OfWidth(CODEBOOK).process(wide))
    reason = f"embedding should have 3 floats like the codes of codebook {CODEBOOK.version}, got 4"
    assert [letter.value["reason"] for letter in letters] == [reason] * 2
    rows, refused = quantize(wide, CODEBOOK)
    assert refused == [letter.value for letter in letters] and not len(rows["semantic_id"])
    fitting = segment_batch(ids, ids, NOON_MS + ids, np.stack([CODEBOOK.codes[3], np.full(WIDTH, np.nan)]))
    assert list(_OfWidth(CODEBOOK).process(fitting)) == [fitting]
    rows, refused = quantize(fitting, CODEBOOK)
    assert rows["semantic_id"].tolist() == [3] and rows["live_id"].tolist() == [1]
    assert [letter["line"] for letter in refused] == [2] and "finite numbers" in refused[0]["reason"]
