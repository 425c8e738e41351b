"""LocalStream: what a batch gives, however often it is stopped; late rows; rooms that are over; damaged checkpoints."""

import collections
import contextlib
import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from beam_transforms.codebook import Codebook
from beam_transforms.columnar import to_batch, to_columns
from beam_transforms.encode_event_lines import encode_event_lines
from beam_transforms.labels import FastWindow
from beam_transforms.local_stream import CHECKPOINT, LocalStream
from beam_transforms.online_store import open_online_store
from beam_transforms.pipeline import build_examples, content_schema
from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.kafka_topic import KafkaTopic
from beam_transforms.sources.line_files import LineFiles
from beam_transforms.sources.live_reader import LiveReader
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.simulator import SimulatorConfig, simulate
from beam_transforms.spans import SpanPlan
from beam_transforms.stream_checkpoint import StreamCheckpoint
from tests.beam_transforms.event_logs import NOON_MS, read_examples
from tests.beam_transforms.live_logs import (
    CODEBOOK,
    LENGTHS,
    SCHEMA,
    WIDTH,
    arrivals,
    chosen,
    follow,
    live_log,
    put,
    stored,
)
from tests.beam_transforms.sources.test_kafka_topic import Broker
from tests.beam_transforms.stream_crashes import StreamProcess, contents
from tests.beam_transforms.test_streaming import SHORT

PLAN = SpanPlan(600_000)
POLICY = FastWindow(120)
LATENESS_MS = 60_000


def _stream(live, folder, **arguments):
    defaults = {"schema": SCHEMA, "plan": PLAN, "policy": POLICY, "codebook": CODEBOOK, "lateness_ms": LATENESS_MS}
    return LocalStream(follow(live), folder, **(defaults | {"store": folder / "store"} | arguments))


@pytest.fixture
def live(tmp_path):
    return put(tmp_path / "live", arrivals(live_log(1), 2, LATENESS_MS))


def test_it_gives_the_examples_and_the_store_of_a_batch(tmp_path, live):
    windows = list(_stream(live, tmp_path / "stream", shards=2).windows())
    end_ms = windows[-1].end_ms
    build_examples(
        LineFiles([live], SHORT, WIDTH, True), tmp_path / "batch", PLAN, POLICY, codebook=CODEBOOK,
        store=tmp_path / "store", as_of_ms=end_ms, content_lengths=LENGTHS,
    )  # fmt: skip
    expected, found = (read_examples(tmp_path / name, SCHEMA) for name in ("batch", "stream"))
    assert len(expected["live_id"]) > 50
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert stored(tmp_path / "stream" / "store", SCHEMA, end_ms) == stored(tmp_path / "store", SCHEMA, end_ms)
    # What is handed to a trainer on the way is what stands in the files.
    handed = {name: np.concatenate([window.examples[name] for window in windows]) for name in expected}
    order = np.lexsort([handed["live_id"], handed["user_id"], handed["timestamp_ms"]])
    for name, values in expected.items():
        np.testing.assert_array_equal(handed[name][order], values, err_msg=name)
    assert sum(rows for window in windows for _, rows in window.files) == len(order) == windows[-1].counts["examples"]
    assert all(window.end_ms % WINDOW_MS == 0 for window in windows)


def test_what_is_handed_to_a_trainer_is_in_the_order_of_impressions_not_of_arrival(tmp_path, live):
    longest = 0
    for window in _stream(live, tmp_path / "stream", policy=FastWindow(120, {"ctr": 30})).windows():
        columns = [window.examples[name].tolist() for name in ("timestamp_ms", "user_id", "live_id")]
        keys = list(zip(*columns, window.emitted_ms.tolist(), strict=True))
        assert keys == sorted(keys)
        longest = max(longest, len(keys))
    assert longest > 10


def test_a_stream_that_is_stopped_after_every_window_gives_the_same_files(tmp_path, live):
    counts = _stream(live, tmp_path / "once").run()
    ends = []
    for _ in range(200):
        found = list(itertools.islice(_stream(live, tmp_path / "often").windows(), 2))
        ends.append(found[-1].end_ms)
        if len(found) == 1 and len(ends) > 1 and ends[-1] == ends[-2]:
            break
    assert found[-1].counts == counts
    assert len(set(ends)) > 10
    assert contents(tmp_path / "often") == contents(tmp_path / "once")


def test_what_stands_in_a_window_that_has_passed_moves_the_head_and_ends_rooms(tmp_path):
    """Events before a room's start count; a room that has ended isn't live; windows without events move the head."""

    def line(kind, second, **fields):
        row = {"kind": kind, "timestamp_ms": NOON_MS + second * 1000, "author_id": 0, "live_id": 0, **fields}
        return json.dumps(row).encode() + b"\n"

    blocks = [
        line("EXPOSURE", 1, user_id=1) + line("ROOM_START", 70) + line("LIKE", 75, user_id=1),
        line("LIKE", 125, user_id=2),
        line("ROOM_END", 400),
        line("COMMENT", 410, user_id=1),
        line("LIKE", 455, user_id=1, live_id=1),
        line("LIKE", 481, user_id=2, live_id=1),
    ]
    heads = []
    for window in _stream(put(tmp_path / "live", blocks), tmp_path / "stream").windows():
        with open_online_store(tmp_path / "stream" / "store") as store:
            heads.append(((window.end_ms - NOON_MS) // 1000, store.live_ids.tolist()))
            if heads[-1] == (120, [0]):
                assert store.request(1)[1]["context"][0, 0] == pytest.approx(119)  # since its first event
    assert heads == [(60, [0]), (120, [0]), (390, [0]), (450, []), (480, [1]), (510, [1])]


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(tmp_path, live):
    list(itertools.islice(_stream(live, tmp_path / "stream").windows(), 3))
    with pytest.raises(ValueError, match="lateness_ms was 60000, is 30000"):
        _stream(live, tmp_path / "stream", lateness_ms=30_000).run()
    path = tmp_path / "stream" / CHECKPOINT
    data = path.read_bytes()
    for damaged in (b"", data[:-1], data + b"x", b"{}\n" + data):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a checkpoint of a stream"):
            _stream(live, tmp_path / "stream").run()


def test_a_checkpoint_of_another_source_is_refused_and_the_same_one_may_be_named_otherwise(tmp_path, live, monkeypatch):
    folder = tmp_path / "stream"
    arguments = {"schema": SCHEMA, "plan": PLAN, "policy": POLICY, "codebook": CODEBOOK, "lateness_ms": LATENESS_MS}
    arguments["store"] = folder / "store"
    (last,) = collections.deque(_stream(live, folder).windows(), maxlen=1)
    # Its files have the names of those that are read.
    other = shutil.copytree(live, tmp_path / "other")
    with pytest.raises(ValueError, match=rf"begun otherwise: source was the folder {live}, is the folder {other}; rem"):
        _stream(other, folder).run()
    topic = KafkaTopic("host:9092", "live", connect=Broker().connect)
    with pytest.raises(ValueError, match=rf"source was the folder {live}, is the Kafka topic live; remove it"):
        LocalStream(topic, folder, **arguments).run()
    monkeypatch.chdir(tmp_path)
    (again,) = _stream(Path("other/../live"), folder).windows()
    assert again.end_ms == last.end_ms


def test_it_is_told_whether_a_stream_has_ended(tmp_path, live):
    stream = _stream(live, tmp_path / "stream")
    assert stream.ended_ms() is None
    windows = stream.windows()
    next(windows)
    assert stream.ended_ms() is None
    last = collections.deque(windows, maxlen=1)[0]
    assert _stream(live, tmp_path / "stream").ended_ms() == last.end_ms
    with pytest.raises(ValueError, match="lateness_ms was 60000, is 30000"):
        _stream(live, tmp_path / "stream", lateness_ms=30_000).ended_ms()


def test_a_topic_may_move_to_other_brokers_and_not_become_another_one():
    place = KafkaTopic("host:9092", "live").place
    assert KafkaTopic("other:9092,third:9092", "live").place == place == "the Kafka topic live"
    assert KafkaTopic("host:9092", "live.2").place != place


def test_a_window_tells_whether_there_was_nothing_more_to_read_before_it_closed(tmp_path, live, monkeypatch):
    calls, advance = itertools.count(), LiveReader.advance
    monkeypatch.setattr(LiveReader, "advance", lambda self: next(calls) != 5 and advance(self))
    windows = list(_stream(live, tmp_path / "stream", poll_s=0.01).windows())
    caught_up = [window.caught_up for window in windows]
    # After the pause, and when the source has ended.
    assert caught_up[-1] and sum(caught_up) == 2 and len(caught_up) > 6 and not caught_up[-2]
    (again,) = _stream(live, tmp_path / "stream").windows()
    assert not again.caught_up


def test_what_a_killed_stream_left_half_written_is_removed(tmp_path, live):
    folder = tmp_path / "stream"
    window = list(itertools.islice(_stream(live, folder).windows(), 5))[-1]
    half = [folder / f".{CHECKPOINT}.123", Path(window.files[0][0]).parent / ".examples-0.tfrecord.123"]
    for path in half:
        path.write_bytes(b"half")
    next(_stream(live, folder).windows())
    assert not [path for path in half if path.exists()]


def test_a_source_that_ends_without_a_row_gives_nothing(tmp_path):
    assert _stream(put(tmp_path / "live", []), tmp_path / "stream").run() == {}
    assert not list((tmp_path / "stream").rglob("*.tfrecord"))


def test_a_topic_whose_messages_are_cut_otherwise_after_each_stop_gives_the_same_examples(tmp_path, live):
    """What a step gave is written again, not found again: Kafka hands out other pieces the second time."""
    broker = Broker(partitions=2, at_once=2)
    for number, path in enumerate(sorted(live.glob("*.jsonl"))):
        lines = path.read_bytes().splitlines(keepends=True)
        broker.send(number % 2, b"".join(lines[::2]))
        broker.send((number + 1) % 2, b"".join(lines[1::2]))
    until = {number: len(messages) for number, messages in broker.messages.items()}
    topic = KafkaTopic(
        "host:9092", "live", WIDTH, group_id="stream", until=until, future_ms=None, connect=broker.connect
    )
    arguments = {"schema": SCHEMA, "plan": PLAN, "policy": POLICY, "codebook": CODEBOOK, "lateness_ms": LATENESS_MS}
    folder = tmp_path / "topic"
    last, seen = None, 0
    while last is None or not last.ended:
        broker.at_once = 1 + seen % 3
        stream = LocalStream(topic, folder, store=folder / "store", **arguments)
        seen += len(list(itertools.islice(stream.windows(), 2)))
        last = StreamCheckpoint.load(folder / CHECKPOINT, {})
    assert seen > 10 and last.counts.get("late_events", 0) == 0
    assert {
        partition.partition: offset.offset for partition, offset in broker.committed.items()
    }.items() <= until.items()
    _stream(live, tmp_path / "files").run()
    spans = [
        {name: data for name, data in contents(tmp_path / name_).items() if name.startswith("Span-")}
        for name_ in ("topic", "files")
    ]
    assert spans[0] == spans[1] and len(spans[0]) > 10
    with open_online_store(folder / "store") as store:
        end_ms = store.as_of_ms
    assert stored(folder / "store", SCHEMA, end_ms) == stored(tmp_path / "files" / "store", SCHEMA, end_ms)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_process_that_is_killed_anywhere_leaves_what_it_leaves_undisturbed(tmp_path):
    """Exactly once: 50 seeds, each killed with SIGKILL up to four times, anywhere between two calls."""
    too_late = {"events": live_log(2, minutes=1, events=9)["events"]}
    blocks = arrivals(live_log(7, minutes=6, events=150, rooms=3), 8, LATENESS_MS)
    blocks[len(blocks) * 3 // 4] += b"damaged\n" + b"".join(map(encode_event_lines, too_late.values()))
    processes = StreamProcess(put(tmp_path / "live", blocks))
    calls = processes.calls(tmp_path / "once")
    wanted = contents(tmp_path / "once")
    assert sum(name.startswith("late/") for name in wanted) == sum(name.startswith("dead") for name in wanted) == 1
    assert sum(name.startswith("Span-") for name in wanted) > 5
    kills = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        for _ in range(4):
            if processes.run(folder, int(rng.integers(1, calls // 2))):
                break
            kills += 1
        else:
            assert processes.run(folder)
        found = contents(folder)
        assert sorted(found) == sorted(wanted)
        assert [name for name in wanted if found[name] != wanted[name]] == []
        shutil.rmtree(folder)
    print(f"{kills} kills in 50 seeds; an undisturbed run takes {calls:,} calls")
    assert kills > 75


@pytest.mark.slow
def test_a_day_replayed_as_a_stream_gives_what_a_batch_gives(tmp_path):
    """Shuffled arrival, duplicates, late rows inside the allowed lateness; and rows that come hours too late."""
    config = SimulatorConfig(users=240, authors=12, seed=3)
    simulate(config, tmp_path / "log")
    source = open_source("kuailive_m3", tmp_path / "log")
    day = {
        "events": _all(source.read(part) for part in source.partitions()),
        "segments": _all(source.read_segments(part) for part in source.segment_partitions()),
        "products": _all(source.read_products(part) for part in source.product_partitions()),
    }
    rng = np.random.default_rng(1)
    embeddings = to_columns([day["segments"]])["embedding"]
    codebook = Codebook(embeddings[rng.choice(len(embeddings), 20, replace=False)])
    schema = content_schema(source, codebook, LENGTHS)
    too_late: dict = {}
    for name, batch in day.items():
        # Everything but the first hours may come too late.
        rows = np.flatnonzero(to_columns([batch])["timestamp_ms"] > config.start_ms + 4 * 3_600_000)
        late = np.zeros(batch.num_rows, dtype=bool)
        late[rng.choice(rows, min(len(rows), 40), replace=False)] = True
        day[name], too_late[name] = chosen(batch, np.flatnonzero(~late)), chosen(batch, np.flatnonzero(late))
    blocks = arrivals(day, 2, LATENESS_MS, doubled=500, longest_ms=240_000)
    blocks[-1] = b"".join(map(encode_event_lines, too_late.values())) + blocks[-1]
    arguments = {"schema": schema, "plan": SpanPlan(), "policy": FastWindow(), "codebook": codebook}
    live = put(tmp_path / "live", blocks)
    began = time.process_time()
    stream = LocalStream(follow(live, 128), tmp_path / "stream", store=tmp_path / "store", **arguments)
    windows = list(stream.windows())
    counts = windows[-1].counts
    print(f"{len(windows)} steps in {time.process_time() - began:.0f} CPU-s: {dict(counts)}")
    names = {"events": "late_events", "segments": "late_semantic_ids", "products": "late_products"}
    # Those of the last minutes aren't late yet.
    last = {name: to_columns([batch])["timestamp_ms"] for name, batch in too_late.items()}
    expected_late = {name: int((times < windows[-2].end_ms - LATENESS_MS).sum()) for name, times in last.items()}
    assert {name: counts[late] for name, late in names.items()} == expected_late

    taken = {
        name: chosen(batch, np.flatnonzero(last[name] >= windows[-2].end_ms - LATENESS_MS))
        for name, batch in too_late.items()
    }
    on_time = put(tmp_path / "on_time", [b"".join(map(encode_event_lines, (*day.values(), *taken.values())))])
    options = {"codebook": codebook, "content_lengths": LENGTHS}
    store = {"store": tmp_path / "batch_store", "as_of_ms": windows[-1].end_ms}
    lines = LineFiles([on_time], source.schema, 128, True)
    build_examples(lines, tmp_path / "batch", SpanPlan(), FastWindow(), **options, **store)
    found, wanted = _records(tmp_path / "stream"), _records(tmp_path / "batch")
    assert len(wanted) > 8_000 and found == wanted
    both = (stored(tmp_path / name, schema, windows[-1].end_ms, 30) for name in ("store", "batch_store"))
    assert next(both) == next(both)

    build_examples(source, tmp_path / "whole", SpanPlan(), FastWindow(), **options)
    lines = LineFiles([on_time, tmp_path / "stream" / "late"], source.schema, 128, True)
    build_examples(lines, tmp_path / "later", SpanPlan(), FastWindow(), **options)
    whole = _records(tmp_path / "whole")
    print(f"{len(wanted)} examples by stream and batch, {len(set(whole) - set(wanted))} others with the late rows")
    assert _records(tmp_path / "later") == whole != wanted


def _all(parts):
    return to_batch(to_columns([item for part in parts for item in part]))


def _records(folder):
    files = sorted(str(path) for path in folder.rglob("*.tfrecord"))
    return sorted(record.numpy() for record in tf.data.TFRecordDataset(files))


def test_dead_letters_are_written_without_a_window_and_what_waits_is_not_lost(tmp_path, monkeypatch):
    """Lines that can't be read come before, between and after good ones; the stream is stopped at each checkpoint."""
    monkeypatch.setattr("beam_transforms.local_stream._MOST_LETTERS", 2000)
    good = list(arrivals(live_log(1), 2, LATENESS_MS))
    bad = b'{"kind": "ENTER", "userid": 1}\n' * 50
    counts = _stream(put(tmp_path / "good", good), tmp_path / "expected").run()
    live = put(tmp_path / "live", [bad, good[0], bad, *good[1:3], bad, *good[3:], bad])

    class Stopped(Exception):  # noqa: N818
        pass

    save, waiting = StreamCheckpoint.save, []

    def stop(checkpoint, path):
        save(checkpoint, path)
        if checkpoint.part:
            waiting.append(sum(map(len, checkpoint.arrived.values())))
        raise Stopped

    monkeypatch.setattr(StreamCheckpoint, "save", stop)
    found, stops = None, 0
    while found is None:
        with contextlib.suppress(Stopped):
            found = _stream(live, tmp_path / "found").run()
            break
        stops += 1
    assert stops > 10
    assert len(waiting) == 4 and waiting[0] == 0 and max(waiting) > 0
    letters = sorted((tmp_path / "found" / "dead_letters").iterdir())
    assert letters[0].name == "0-00001-of-00002.jsonl"
    assert b"".join(path.read_bytes() for path in letters).count(b"\n") == 4 * 50
    shutil.rmtree(tmp_path / "found" / "dead_letters")
    assert contents(tmp_path / "found") == contents(tmp_path / "expected")
    assert found == {**counts, "dead_letters": 4 * 50}
