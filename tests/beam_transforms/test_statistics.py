import tracemalloc

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms.columnar import concatenate, take, to_batch, to_columns
from beam_transforms.events import register_coders
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, Aggregate, EventKind, Metric
from beam_transforms.stage import StageState, advance
from beam_transforms.statistics import (
    empty_heard,
    empty_windows,
    fold_heard,
    fold_windows,
    room_windows,
    statistic_sequences,
    window_statistics,
)
from beam_transforms.window_statistics import WindowStatistics, _CountedWindows, _RoomWindows
from tests.beam_transforms.event_logs import NOON_MS, event_rows, log

METRICS = (
    Metric("comment", "interaction", EventKind.COMMENT),
    Metric("character", "interaction", EventKind.COMMENT, Aggregate.SUM),
    Metric("chatter", "out_of_room", EventKind.COMMENT, Aggregate.USERS),
    Metric("new_chatter", "out_of_room", EventKind.COMMENT, Aggregate.NEW_USERS),
    Metric("audience", "out_of_room", EventKind.ENTER, Aggregate.PRESENT),
)


def test_windows_of_a_hand_made_room():
    events = log(
        (EventKind.COMMENT, 0, 1, 0, 7, 4),
        (EventKind.COMMENT, 29.999, 1, 0, 7, 6),
        (EventKind.COMMENT, 30, 1, 0, 7, 1),  # at the end of a window: belongs to the next
        (EventKind.COMMENT, 31, 2, 0, 7, 2),
        (EventKind.ENTER, 1, 1, 0, 7, 1),
        (EventKind.ENTER, 2, 2, 0, 7, 1),
        (EventKind.LEAVE, 95, 1, 0, 7, 94),
    )
    windows = window_statistics(events, METRICS)
    assert windows["live_id"].tolist() == [7, 7, 7]
    assert ((windows["window_end_ms"] - NOON_MS) // 1000).tolist() == [30, 60, 120]
    assert windows["statistics"].tolist() == [[2, 10, 1, 1, 2], [2, 3, 2, 1, 2], [0, 0, 0, 0, 1]]


def test_a_sequence_has_only_windows_that_have_ended():
    events = log(
        (EventKind.COMMENT, 10, 1, 0, 7, 1), (EventKind.COMMENT, 70, 1, 0, 7, 1), (EventKind.ENTER, 11, 1, 0, 7, 1)
    )
    metrics = (METRICS[0], METRICS[4])
    seconds = np.array([29.999, 30, 89.999, 90])
    queries = {"live_id": np.full(4, 7), "as_of_ms": NOON_MS + (seconds * 1000).astype(np.int64)}
    sequence, mask, _ = _sequences(events, queries, metrics, length=3)
    assert mask.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert sequence[:, :, 0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert sequence[:, :, 1].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]  # the audience stays


def test_a_room_without_events_has_an_empty_sequence():
    queries = {"live_id": np.array([6, 8]), "as_of_ms": np.full(2, NOON_MS + 600_000)}
    sequence, mask, opened = _sequences(log((EventKind.COMMENT, 10, 1, 0, 7, 1)), queries, METRICS, length=4)
    assert not sequence.any() and not mask.any() and opened.tolist() == [-1, -1]


def test_a_room_that_was_silent_for_three_hours_starts_afresh():
    events = log(
        (EventKind.ENTER, 0, 1, 0, 7, 1), (EventKind.COMMENT, 0, 1, 0, 7, 1), (EventKind.COMMENT, 11_000, 1, 0, 7, 1)
    )
    queries = {"live_id": np.full(2, 7), "as_of_ms": NOON_MS + np.array([10_800_000, 11_040_000])}
    sequence, mask, opened = _sequences(events, queries, METRICS, length=3)
    assert opened.tolist() == [NOON_MS, NOON_MS + 11_000_000]
    assert mask.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert sequence[:, :, 4].tolist() == [[1, 1, 1], [0, 0, 0]]  # who was present is forgotten, too
    assert sequence[1, :, 3].tolist() == [0, 1, 0]  # and the user is new again


def _sequences(events, queries, metrics, length):
    found = statistic_sequences(room_windows(empty_heard(), events, metrics), queries, metrics, length)
    return found["statistic_sequence"], found["statistic_mask"], found["opened_ms"]


@settings(max_examples=40, deadline=None)
@given(
    rows=event_rows(), cuts=st.lists(st.integers(0, 60), max_size=3), later=st.integers(0, 900), parts=st.integers(1, 3)
)
def test_folding_at_any_time_changes_nothing(rows, cuts, later, parts):
    """Also when the events of a room come from several workers, each with the users of its own."""
    events = log(*rows)
    cuts = sorted(NOON_MS + cut * WINDOW_MS for cut in cuts)
    as_of_ms = max([*cuts, NOON_MS]) + later * WINDOW_MS
    queries = {"live_id": np.arange(5), "as_of_ms": np.full(5, as_of_ms)}
    state = empty_windows(METRICS)
    heard = [empty_heard() for _ in range(parts)]
    for begin, end in zip([0, *cuts], [*cuts, 2**60], strict=True):
        now = take(events, (events["timestamp_ms"] >= begin) & (events["timestamp_ms"] < end))
        of_part = [take(now, now["user_id"] % parts == part) for part in range(parts)]
        pieces = [room_windows(heard[part], of_part[part], METRICS) for part in range(parts)]
        if end == 2**60:
            found = statistic_sequences(concatenate([state, *pieces]), queries, METRICS, 6)
            break
        state = fold_windows(state, concatenate(pieces), METRICS, 6, end)
        heard = [fold_heard(heard[part], of_part[part], METRICS, end) for part in range(parts)]
    expected = statistic_sequences(room_windows(empty_heard(), events, METRICS), queries, METRICS, 6)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def _brute_force(events, room, end_ms, metric):
    """One metric of one window, counted the slow way."""
    rows = [{name: values[row].item() for name, values in events.items()} for row in range(len(events["kind"]))]
    rows = [row for row in rows if row["live_id"] == room]
    inside = [r for r in rows if r["kind"] == metric.kind and end_ms - WINDOW_MS <= r["timestamp_ms"] < end_ms]
    if metric.aggregate is Aggregate.SUM:
        return sum(row["value"] for row in inside)
    if metric.aggregate is Aggregate.USERS:
        return len({row["user_id"] for row in inside})
    if metric.aggregate is Aggregate.NEW_USERS:
        earlier = {r["user_id"] for r in rows if r["kind"] == metric.kind and r["timestamp_ms"] < end_ms - WINDOW_MS}
        return len({row["user_id"] for row in inside} - earlier)
    if metric.aggregate is Aggregate.PRESENT:
        so_far = [row["kind"] for row in rows if row["timestamp_ms"] < end_ms]
        return max(so_far.count(EventKind.ENTER) - so_far.count(EventKind.LEAVE), 0)
    return len(inside)


@settings(max_examples=50, deadline=None)
@given(event_rows())
def test_sequences_equal_counting_by_hand(rows):
    events = log(*rows)
    now = NOON_MS + 1_000_000
    rooms = np.unique(events["live_id"])
    queries = {"live_id": rooms, "as_of_ms": np.full(len(rooms), now)}
    sequence, mask, _ = _sequences(events, queries, METRICS, length=40)
    for row, room in enumerate(rooms):
        opened = events["timestamp_ms"][events["live_id"] == room].min()
        for step in range(40):
            end_ms = (now // WINDOW_MS - 39 + step) * WINDOW_MS
            assert mask[row, step] == (end_ms > opened)
            expected = [_brute_force(events, room, end_ms, metric) for metric in METRICS]
            assert sequence[row, step].tolist() == expected


@settings(max_examples=50, deadline=None)
@given(event_rows())
def test_the_order_of_events_changes_nothing(rows):
    forward, backward = window_statistics(log(*rows), METRICS), window_statistics(log(*rows[::-1]), METRICS)
    for name, values in forward.items():
        np.testing.assert_array_equal(values, backward[name])


def test_transform_counts_equal_events_once():
    register_coders()
    events = log((EventKind.COMMENT, 10, 1, 0, 7, 4), (EventKind.COMMENT, 12, 1, 0, 7, 4))

    def counted(expected):
        def check(batches):
            statistics = [to_columns([batch])["statistics"].tolist() for batch in batches if batch.num_rows]
            assert statistics == expected, statistics

        return check

    for deduplicate, count in ((True, 2.0), (False, 3.0)):
        with TestPipeline() as pipeline:
            batches = pipeline | beam.Create([to_batch(events), to_batch({k: v[:1] for k, v in events.items()})])
            windows = batches | WindowStatistics(METRICS[:1], deduplicate=deduplicate)
            assert_that(windows, counted([[[count]]]))


def test_a_stream_four_times_as_long_needs_no_more_memory():
    """Of the same rooms and users: what is held is what is open, not what has passed."""
    rng = np.random.default_rng(0)
    counted, by_room = _CountedWindows(METRICS, WINDOW_MS, True), _RoomWindows(METRICS, WINDOW_MS)

    def windows_of(steps: int) -> int:
        first, second, found = StageState.first(counted), StageState.first(by_room), 0
        for end_ms in NOON_MS + WINDOW_MS * np.arange(1, steps + 1):
            rows = 500
            times = rng.integers(end_ms - WINDOW_MS, end_ms, rows)
            ids = {name: rng.integers(0, ids, rows) for name, ids in (("user_id", 40), ("author_id", 9))}
            kinds = rng.choice([EventKind.COMMENT, EventKind.ENTER, EventKind.LEAVE], rows).astype(np.int8)
            events = {"kind": kinds, "timestamp_ms": times, **ids, "live_id": rng.integers(0, 20, rows)}
            events |= {"value": np.ones(rows, np.float32)}
            first, partial = advance(counted, first, {"events": [events]}, int(end_ms), 0)
            second, windows = advance(by_room, second, {"room_windows": [partial["room_windows"]]}, int(end_ms), 0)
            found += len(windows["windows"]["live_id"])
        return found

    peaks = []
    windows_of(2)
    for steps in (50, 200):
        tracemalloc.start()
        try:
            assert windows_of(steps) == 20 * steps
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], peaks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ()}, "at least one metric"),
        ({"metrics": METRICS, "period_ms": 0}, "period_ms must be positive, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowStatistics(**arguments)


def test_the_schema_has_twelve_metrics_in_four_groups():
    assert len(LIVE_SCHEMA.metrics) == 12
    assert {metric.group for metric in LIVE_SCHEMA.metrics} == {
        "out_of_room",
        "conversion",
        "interaction",
        "in_room",
    }
