import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings

from beam_transforms.columnar import to_batch, to_columns
from beam_transforms.events import register_coders
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, Aggregate, EventKind, Metric
from beam_transforms.statistics import WindowStatistics, statistic_sequences, window_statistics
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
    windows = window_statistics(events, metrics)
    seconds = np.array([29.999, 30, 89.999, 90])
    queries = {"live_id": np.full(4, 7), "timestamp_ms": NOON_MS + (seconds * 1000).astype(np.int64)}
    sequence, mask = statistic_sequences(windows, queries, metrics, length=3)
    assert mask.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert sequence[:, :, 0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert sequence[:, :, 1].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]  # the audience stays


def test_a_room_without_events_has_an_empty_sequence():
    windows = window_statistics(log((EventKind.COMMENT, 10, 1, 0, 7, 1)), METRICS)
    queries = {"live_id": np.array([6, 8]), "timestamp_ms": np.full(2, NOON_MS + 600_000)}
    sequence, mask = statistic_sequences(windows, queries, METRICS, length=4)
    assert not sequence.any() and not mask.any()


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
    windows = window_statistics(events, METRICS)
    now = NOON_MS + 1_000_000
    rooms = np.unique(events["live_id"])
    queries = {"live_id": rooms, "timestamp_ms": np.full(len(rooms), now)}
    sequence, mask = statistic_sequences(windows, queries, METRICS, length=40)
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
