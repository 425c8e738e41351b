"""The whole batch pipeline on small logs: point in time, order, duplicates, spans, and the online store."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from beam_transforms.codebook import Codebook
from beam_transforms.columnar import take
from beam_transforms.content import product_batch, segment_batch
from beam_transforms.impressions import ActiveUserImpressions
from beam_transforms.online_store import open_online_store
from beam_transforms.pipeline import build_examples
from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA, WINDOW_MS, EventKind, schema_from_json
from beam_transforms.sources.source import DeadLetter, Partition
from beam_transforms.spans import SingleSpan, SpanPlan
from beam_transforms.train_codebook import train_codebook
from tests.beam_transforms.event_logs import NOON_MS, MemorySource, event_rows, log, read_examples


def whole_pipeline(examples: int) -> settings:
    """Each example runs a pipeline or two, about a second: few of them, and no search for a smaller one."""
    return settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


HOUR = SpanPlan()
FEATURES = [feature.name for feature in LIVE_SCHEMA.features if feature.role != "label"]
SEEN = log((EventKind.ROOM_START, -60, -1, 0, 0, 1), (EventKind.EXPOSURE, 700, 0, 0, 0, 1))
END = log((EventKind.ROOM_END, 3000, -1, 9, 99, 1))  # lets every label of the log be known


def _with(*logs):
    return {name: np.concatenate([columns[name] for columns in logs]) for name in logs[0]}


def _build(events, folder, schema=LIVE_SCHEMA, plan=HOUR, **arguments):
    summary = build_examples(MemorySource(events, schema), folder, plan, **arguments)
    return summary, read_examples(folder, schema)


@whole_pipeline(3)
@given(rows=event_rows(), second=st.integers(0, 1200), later=event_rows())
def test_nothing_at_or_after_an_impression_changes_its_features(tmp_path_factory, rows, second, later):
    impression = log((EventKind.EXPOSURE, second, 0, 0, 0, 1))
    past = log(*rows)
    past = take(past, np.flatnonzero(past["timestamp_ms"] < impression["timestamp_ms"][0]))
    future = log(*later)
    future = take(future, np.flatnonzero(future["timestamp_ms"] >= impression["timestamp_ms"][0]))

    _, without = _build(_with(past, impression, END), tmp_path_factory.mktemp("without"))
    _, with_future = _build(_with(past, impression, future, END), tmp_path_factory.mktemp("with"))

    def features(examples):
        row = np.flatnonzero(
            (examples["timestamp_ms"] == impression["timestamp_ms"][0])
            & (examples["user_id"] == 0)
            & (examples["live_id"] == 0)
        )
        assert len(row) == 1
        return {name: examples[name][row[0]] for name in FEATURES}

    for name, value in features(without).items():
        np.testing.assert_array_equal(value, features(with_future)[name], err_msg=name)


def test_an_earlier_event_changes_features(tmp_path):
    """The other half: the test above would pass for features that never change."""
    _, before = _build(_with(SEEN, END), tmp_path / "a")
    earlier = log(
        (EventKind.ENTER, 600, 0, 0, 0, 1), (EventKind.LIKE, 610, 0, 0, 0, 1), (EventKind.EXPOSURE, 600, 0, 0, 0, 1)
    )
    _, after = _build(_with(SEEN, earlier, END), tmp_path / "b")
    changed = {name for name in FEATURES if not np.array_equal(before[name][-1], after[name][-1])}
    assert changed == {
        *("statistic_sequence", "entered_authors", "user_counts", "author_counts", "user_author_counts"),
        "user_room_counts",
    }


@whole_pipeline(2)
@given(rows=event_rows(), seed=st.integers(0, 99))
def test_order_and_duplicates_of_events_change_nothing(tmp_path_factory, rows, seed):
    events = _with(log(*rows), SEEN, END)
    order = np.random.default_rng(seed).permutation(len(events["kind"]))
    shuffled = take(events, np.concatenate([order, order[:20]]))
    folders = [tmp_path_factory.mktemp("examples") for _ in range(2)]
    for folder, log_ in zip(folders, (events, shuffled), strict=True):
        build_examples(MemorySource(log_, LIVE_SCHEMA), folder, HOUR)
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.tfrecord")) for folder in folders]
    assert files[0] == files[1] and files[0]
    for name in files[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@whole_pipeline(3)
@given(rows=event_rows(), second=st.integers(60, 1200))
def test_a_request_gets_the_features_that_an_impression_at_that_time_has(tmp_path_factory, rows, second):
    """No training-serving skew: a request at t, to the store as of the window that ended last, equals the example."""
    folder = tmp_path_factory.mktemp("skew")
    rooms = log(*((EventKind.ROOM_START, -60, -1, room // 2, room, 1) for room in range(4)))
    pairs = [(user, room) for user in (0, 1, 9) for room in range(4)]
    asked = log(*((EventKind.EXPOSURE, second, user, room // 2, room, 1) for user, room in pairs))
    events = take(log(*rows), np.flatnonzero(log(*rows)["kind"] != EventKind.ROOM_END))
    now_ms = NOON_MS + second * 1000
    as_of_ms = now_ms // WINDOW_MS * WINDOW_MS
    _, examples = _build(_with(events, rooms, asked, END), folder / "e", store=folder / "s", as_of_ms=as_of_ms)
    with open_online_store(folder / "s") as store:
        assert store.live_ids.tolist() == [0, 1, 2, 3]
        for user, room in pairs:
            _, request = store.request(user, [room], now_ms)
            row = np.flatnonzero(
                (examples["timestamp_ms"] == now_ms) & (examples["user_id"] == user) & (examples["live_id"] == room)
            )
            assert len(row) == 1
            for name, value in request.items():
                np.testing.assert_array_equal(value[0], examples[name][row[0]], err_msg=f"{name} of {user}, {room}")


def test_spans_and_parts_follow_the_time_of_the_impression(tmp_path):
    seconds = (0, 2879, 2880, 3599, 3600)
    events = _with(
        log(*((EventKind.EXPOSURE, s, 1, 0, 0, 1) for s in seconds)), log((EventKind.LIKE, 9000, 1, 0, 0, 1))
    )
    summary, _ = _build(events, tmp_path)
    span = NOON_MS // 3_600_000
    counts = [(manifest["span"] - span, manifest["train"], manifest["eval"]) for manifest in summary.spans]
    assert counts == [(0, 2, 2), (1, 1, 0)]
    manifest = json.loads((tmp_path / f"Span-{span}" / "manifest.json").read_text())
    assert manifest["begin_ms"] == NOON_MS and manifest["newest_event_ms"] == NOON_MS + 3_599_000
    assert schema_from_json(json.loads((tmp_path / "schema.json").read_text())) == LIVE_SCHEMA
    evaluated = read_examples(tmp_path / f"Span-{span}" / "eval", LIVE_SCHEMA)["timestamp_ms"]
    assert ((evaluated - NOON_MS) // 1000).tolist() == [2880, 3599]


def test_impressions_without_known_labels_are_counted_not_written(tmp_path):
    events = log(
        (EventKind.EXPOSURE, 0, 1, 0, 0, 1), (EventKind.EXPOSURE, 10, 1, 0, 0, 1), (EventKind.LIKE, 300, 1, 0, 0, 1)
    )
    summary, examples = _build(events, tmp_path)
    assert (summary.impressions, summary.immature) == (2, 1)
    assert ((examples["timestamp_ms"] - NOON_MS) // 1000).tolist() == [0]


def test_rows_that_can_not_be_read_are_kept_and_counted(tmp_path):
    class Broken(MemorySource):
        def read(self, partition):
            yield DeadLetter("live_like.csv", 7, "user_id: expected a number >= 0, got 'x'", "x,1,2 – ü")
            yield from super().read(partition)

    events = _with(SEEN, END)
    summary = build_examples(Broken(events, LIVE_SCHEMA), tmp_path, HOUR)
    assert (summary.events, summary.dead_letters, summary.impressions) == (len(events["kind"]), 2, 1)
    lines = (tmp_path / "dead_letters.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [7, 7]
    assert json.loads(lines[0])["text"] == "x,1,2 – ü"
    build_examples(MemorySource(events, LIVE_SCHEMA), tmp_path, HOUR)
    assert not (tmp_path / "dead_letters.jsonl").exists()


def test_a_second_run_leaves_nothing_of_the_first(tmp_path):
    _build(_with(SEEN, END), tmp_path)
    moved = _with(SEEN, END)
    moved["timestamp_ms"] = moved["timestamp_ms"] + 7_200_000
    _, examples = _build(moved, tmp_path)
    assert len(examples["user_id"]) == 1
    assert len(list(tmp_path.glob("Span-*"))) == 1


class Stopped(MemorySource):
    """Gives one dead letter and its events, and then fails."""

    error: BaseException = OSError("no space left on the device")

    def read(self, partition):
        yield DeadLetter("live_like.csv", 7, "user_id: expected a number >= 0, got 'x'", "x")
        yield from super().read(partition)
        if partition.path == "1":
            raise self.error


def _content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_fails_leaves_the_examples_that_were_there(tmp_path):
    _build(_with(SEEN, END), tmp_path)
    before = _content(tmp_path)
    with pytest.raises(OSError, match="no space left"):
        build_examples(Stopped(_with(SEEN, END), LIVE_SCHEMA), tmp_path, HOUR)
    assert before and _content(tmp_path) == before


def test_a_log_without_impressions_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="1 events and no impression"):
        _build(log((EventKind.LIKE, 1, 1, 0, 0, 1)), tmp_path)


def test_what_could_not_be_read_is_kept_where_nothing_else_could(tmp_path):
    _build(_with(SEEN, END), tmp_path)
    before = _content(tmp_path)

    class Broken(MemorySource):
        def read(self, partition):
            yield DeadLetter("live_like.csv", 7, "user_id: expected a number >= 0, got 'x'", "x")

    with pytest.raises(ValueError, match=r"0 events and no impression \(2 rows .*/dead_letters.failed.jsonl"):
        build_examples(Broken(SEEN, LIVE_SCHEMA), tmp_path, HOUR)
    failed = (tmp_path / "dead_letters.failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in failed] == [7, 7]
    assert {name: data for name, data in _content(tmp_path).items() if "failed" not in name} == before
    _build(_with(SEEN, END), tmp_path)
    assert _content(tmp_path) == before


def test_only_rooms_that_opened_and_did_not_end_are_in_the_store(tmp_path):
    rooms = log(
        *((EventKind.ROOM_START, 0, -1, 0, room, 1) for room in range(20)),
        *((EventKind.ROOM_END, 600, -1, 0, room, 1) for room in range(19)),
        (EventKind.LIKE, 10, 5, 0, 30, 1),  # no metadata, silent for long
        (EventKind.LIKE, 590, 5, 0, 31, 1),  # no metadata, heard a moment ago
        (EventKind.ROOM_START, 700, -1, 0, 32, 1),  # opens later
    )
    arguments = {"store": tmp_path / "store", "as_of_ms": NOON_MS + 640_000}
    summary, _ = _build(_with(rooms, SEEN, END), tmp_path / "examples", **arguments)
    store = open_online_store(tmp_path / "store")
    assert store.live_ids.tolist() == [19, 31] and summary.live_rooms == 2
    with pytest.raises(ValueError, match="30"):
        store.request(5, [30])
    store.close()
    _build(_with(SEEN, END), tmp_path / "examples", **(arguments | {"as_of_ms": NOON_MS + 700_000}))
    store = open_online_store(tmp_path / "store")
    assert store.live_ids.tolist() == [0]  # nothing of the first filling is left
    store.close()


@pytest.mark.parametrize("content", [None, b"", b"no store at all" * 1000])
def test_a_folder_without_a_readable_store_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(ValueError, match="online store"):
        open_online_store(tmp_path)


def test_a_store_as_of_a_time_before_the_first_event_has_no_room(tmp_path, location):
    arguments = {"store": location, "as_of_ms": NOON_MS - 86_400_000}
    summary, _ = _build(_with(SEEN, END), tmp_path / "examples", **arguments)
    assert summary.live_rooms == 0
    with open_online_store(location) as store:
        assert (store.as_of_ms, store.live_ids.tolist()) == (NOON_MS - 86_400_000, [])


def test_a_store_that_can_not_be_filled_is_refused_before_anything_is_read(tmp_path, location):
    class Unread(MemorySource):
        def partitions(self):
            raise AssertionError("read")

    _build(_with(SEEN, END), tmp_path / "examples", store=location, as_of_ms=NOON_MS + 600_000)
    before = _content(tmp_path / "examples")
    with pytest.raises(ValueError, match=rf"holds features as of {NOON_MS + 600_000}, later than {NOON_MS + 570_000}"):
        build_examples(
            Unread(SEEN, LIVE_SCHEMA), tmp_path / "examples", HOUR, store=location, as_of_ms=NOON_MS + 599_999
        )
    (tmp_path / "file").write_text("")
    for wrong, message in (("kafka://foo", "no such online store"), (tmp_path / "file", "isn't a folder")):
        with pytest.raises((OSError, ValueError), match=message):
            build_examples(Unread(SEEN, LIVE_SCHEMA), tmp_path / "examples", HOUR, store=wrong, as_of_ms=NOON_MS)
    assert _content(tmp_path / "examples") == before


def test_the_store_needs_a_time(tmp_path):
    with pytest.raises(ValueError, match="store and as_of_ms go together"):
        build_examples(MemorySource(SEEN, LIVE_SCHEMA), tmp_path, HOUR, store=tmp_path / "store")


def test_chat_impressions_are_users_who_wrote_in_the_last_minutes(tmp_path):
    events = log(
        *((EventKind.COMMENT, second, user, 0, 3, 5) for second, user in ((0, 1), (30, 2), (90, 2), (725, 1))),
        (EventKind.COMMENT, 5000, 9, 0, 4, 5),
    )
    summary, examples = _build(
        events, tmp_path, CHAT_SCHEMA, SingleSpan(cut_ms=NOON_MS + 300_000), impressions=ActiveUserImpressions(1000, 0)
    )
    found = {
        (int(user), int(time - NOON_MS) // 60_000)
        for user, time in zip(examples["user_id"], examples["timestamp_ms"], strict=True)
    }
    assert found == {(1, m) for m in range(1, 11)} | {(2, m) for m in range(1, 12)}
    positive = examples["label"][:, 0] == 1
    assert {
        (int(u), int(t - NOON_MS) // 60_000)
        for u, t in zip(examples["user_id"][positive], examples["timestamp_ms"][positive], strict=True)
    } == {(2, 1)}
    assert summary.spans[0]["train"] == 8 and summary.spans[0]["eval"] == 13


def test_chat_impressions_are_sampled_by_seed_to_exactly_the_limit(tmp_path):
    rows = [(EventKind.COMMENT, second, user, 0, second % 3, 5) for second in range(0, 1200, 7) for user in range(5)]
    picks = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        order = np.random.default_rng(len(picks)).permutation(len(rows))
        events = take(log(*rows, (EventKind.COMMENT, 9000, 9, 0, 4, 5)), order)
        summary, examples = _build(
            events, tmp_path / name, CHAT_SCHEMA, SingleSpan(cut_ms=0), impressions=ActiveUserImpressions(100, seed)
        )
        assert summary.impressions == 100
        picks.append(set(zip(examples["user_id"], examples["live_id"], examples["timestamp_ms"], strict=True)))
    assert picks[0] == picks[1] != picks[2]


class ContentSource(MemorySource):
    """Room 0 shows two kinds of segments, of 30 s each, and three products."""

    def segment_partitions(self):
        return [Partition("all", "segments")]

    def read_segments(self, partition):
        kinds = np.array([0, 0, 1, 1, 1, 0, 0, 0], dtype=np.float32)
        ends = NOON_MS + np.arange(1, 9) * 30_000 - 1
        yield segment_batch(0, 0, ends, np.stack([kinds, 1 - kinds], axis=1))
        yield segment_batch(0, 0, ends[:1], np.full((1, 2), np.nan))

    def product_partitions(self):
        return [Partition("all", "products")]

    def read_products(self, partition):
        times = NOON_MS + np.array([10_000, 100_000, 130_000])
        yield product_batch(0, 0, times, np.array([7, 8, 9]), 1, 2, np.array([3, 4, 5]))


def test_a_room_is_told_by_what_it_has_shown(tmp_path):
    """Segments that ended, and products that were shown, before the window in which the user saw the room."""
    seconds = (29.0, 30.0, 95.0, 125.0, 300.0)
    shown = log(*((EventKind.EXPOSURE, second, 1, 0, 0, 1) for second in seconds))
    source = ContentSource(_with(SEEN, shown, END), LIVE_SCHEMA)
    codebook = train_codebook(source, NOON_MS + 120_000, 2, tmp_path / "codebook")
    assert codebook is not None and codebook.trained_on == 4
    codebook = Codebook(np.array([[0, 1], [1, 0]], dtype=np.float32))
    arguments = {"store": tmp_path / "store", "as_of_ms": NOON_MS + 300_000}
    summary = build_examples(source, tmp_path / "e", HOUR, codebook=codebook, content_lengths=(2, 2), **arguments)
    assert summary.dead_letters == 1
    schema = schema_from_json(json.loads((tmp_path / "e" / "schema.json").read_text()))
    assert (schema.codebook, schema.codes, schema.categories) == (codebook.version, 2, (50, 1_000, 5_000))
    examples = read_examples(tmp_path / "e", schema)
    examples = take(examples, examples["user_id"] == 1)
    assert examples["semantic_ids"].tolist() == [[-1, -1], [-1, 0], [0, 1], [0, 1], [1, 0]]
    assert examples["run_lengths"].tolist() == [[0, 0], [0, 1], [2, 1], [2, 2], [3, 3]]
    assert examples["product_ids"].tolist() == [[-1, -1], [-1, 7], [-1, 7], [7, 8], [8, 9]]
    assert examples["product_categories"][-1].tolist() == [[1, 2, 4], [1, 2, 5]]
    with open_online_store(tmp_path / "store") as store:
        _, request = store.request(1, [0])
    for name, value in request.items():
        np.testing.assert_array_equal(value[0], examples[name][-1], err_msg=name)
