import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings

from beam_transforms.columnar import take, to_batch, to_columns
from beam_transforms.events import register_coders
from beam_transforms.highlight_moments import UNKNOWN, HighlightMoments, highlight_moments
from beam_transforms.schema import WINDOW_MS, EventKind
from tests.beam_transforms.event_logs import NOON_MS, event_rows, log

ENTER, LEAVE, LIKE, COMMENT = EventKind.ENTER, EventKind.LEAVE, EventKind.LIKE, EventKind.COMMENT

ROOM = (
    # Window 0: 1, 2 and 3 enter. Nobody was there at its start; 3 viewers.
    (ENTER, 1, 1, 0, 7, 1),
    (ENTER, 2, 2, 0, 7, 1),
    (ENTER, 3, 3, 0, 7, 1),
    # Window 1: all three at its start, 3 leaves; one like, by user 4, who enters: 4 viewers.
    (LEAVE, 40, 3, 0, 7, 37),
    (ENTER, 45, 4, 0, 7, 1),
    (LIKE, 46, 4, 0, 7, 1),
    # Window 2: 1, 2, 4 at its start; 2 leaves and comes back, 4 leaves at the very end, which is the next window.
    (LEAVE, 65, 2, 0, 7, 63),
    (ENTER, 70, 2, 0, 7, 1),
    (COMMENT, 71, 2, 0, 7, 1),
    (COMMENT, 72, 1, 0, 7, 1),
    (COMMENT, 73, 9, 0, 7, 1),  # who writes without having entered is a viewer: 4
    # Window 3: 1, 2, 4 at its start, 1 and 4 leave.
    (LEAVE, 90, 4, 0, 7, 45),
    (LEAVE, 91, 1, 0, 7, 90),
)


def test_a_hand_made_room():
    moments = highlight_moments(log(*ROOM))
    assert moments["live_id"].tolist() == [7] * 4
    assert ((moments["window_end_ms"] - NOON_MS) // 1000).tolist() == [30, 60, 90, 120]
    np.testing.assert_allclose(moments["retention"], [np.nan, 2 / 3, 1, 1 / 3])
    np.testing.assert_allclose(moments["density"], [0, 1 / 4, 6 / 4, 0])
    np.testing.assert_allclose(moments["score"], [0, 0.6 * 0.5 + 0.4 / 6, 1, 0])
    assert moments["highlight"].tolist() == [0, 0, 1, 0]
    assert moments["next_highlight"].tolist() == [0, 1, 0, UNKNOWN]


def test_rooms_do_not_mix_and_the_order_changes_nothing():
    other = tuple((kind, second, user, 1, 8, value) for kind, second, user, _, _, value in ROOM)
    alone = highlight_moments(log(*ROOM))
    both = highlight_moments(log(*other[::-1], *ROOM[::-1]))
    assert both["live_id"].tolist() == [7] * 4 + [8] * 4
    for name in ("window_end_ms", "retention", "density", "score", "highlight", "next_highlight"):
        np.testing.assert_array_equal(both[name], np.concatenate([alone[name], alone[name]]))


def test_windows_without_a_viewer_have_no_row():
    events = log((ENTER, 1, 1, 0, 7, 1), (LEAVE, 10, 1, 0, 7, 9), (ENTER, 100, 1, 0, 7, 1), (LEAVE, 110, 1, 0, 7, 10))
    moments = highlight_moments(events)
    assert ((moments["window_end_ms"] - NOON_MS) // 1000).tolist() == [30, 120]
    assert np.isnan(moments["retention"]).all()
    assert moments["score"].tolist() == [0, 0]
    assert moments["next_highlight"].tolist() == [0, UNKNOWN]


def test_an_exit_and_an_entry_of_one_millisecond_leave_nobody():
    events = log((ENTER, 1, 1, 0, 7, 1), (LEAVE, 40, 1, 0, 7, 39), (ENTER, 40, 1, 0, 7, 1), (COMMENT, 100, 2, 0, 7, 1))
    np.testing.assert_allclose(highlight_moments(events)["retention"], [np.nan, 0, np.nan])


def test_what_tells_nothing_makes_no_highlight():
    one = highlight_moments(log((ENTER, 1, 1, 0, 7, 1), (LIKE, 2, 1, 0, 7, 1)))
    assert (one["highlight"].tolist(), one["next_highlight"].tolist(), one["score"].tolist()) == ([0], [UNKNOWN], [0.0])
    # Ten equal windows: one user who stays, and likes once in each.
    constant = highlight_moments(log((ENTER, -1, 1, 0, 7, 1), *((LIKE, 30 * k, 1, 0, 7, 1) for k in range(10))))
    assert constant["highlight"].tolist() == [0] * 11


def test_of_ten_windows_three_are_highlights_and_ties_stay_together():
    def flags(likes):
        rows = [(LIKE, 30 * k + n / 100, 1, 0, 7, 1) for k, count in enumerate(likes) for n in range(count)]
        return highlight_moments(log(*rows))["highlight"].tolist()

    assert flags([1, 2, 9, 3, 4, 8, 5, 6, 7, 1]) == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert flags([1, 2, 9, 3, 4, 8, 5, 7, 7, 1]) == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]


def test_a_room_that_was_silent_for_three_hours_is_another_one():
    later = 5 * 3600
    again = tuple((kind, second + later, *rest) for kind, second, *rest in ROOM)
    alone, both = highlight_moments(log(*ROOM)), highlight_moments(log(*again, *ROOM))
    assert ((both["window_end_ms"] - NOON_MS) // 1000).tolist() == [30, 60, 90, 120] + [
        later + end for end in (30, 60, 90, 120)
    ]
    for name in ("retention", "density", "score", "highlight", "next_highlight"):
        np.testing.assert_array_equal(both[name], np.concatenate([alone[name], alone[name]]))
    years = highlight_moments(log((ENTER, 1, 1, 0, 7, 1), (LIKE, 5 * 365 * 86_400, 1, 0, 7, 1)))
    assert len(years["live_id"]) == 2
    stays = highlight_moments(log((ENTER, 1, 1, 0, 7, 1), (LIKE, 10_800, 2, 0, 7, 1)))  # not longer than three hours
    assert len(stays["live_id"]) == 361
    # Inside a window no silence is seen: one row each, as in `WindowStatistics`.
    long = highlight_moments(log((ENTER, 1, 1, 0, 7, 1), (LIKE, 4 * 3600, 1, 0, 7, 1)), period_ms=6 * 3_600_000)
    assert long["density"].tolist() == [1]


def test_no_events_no_rows():
    moments = highlight_moments(take(log(*ROOM), np.zeros(0, dtype=np.int64)))
    assert {name: len(values) for name, values in moments.items()} == dict.fromkeys(moments, 0)
    assert moments["live_id"].dtype == moments["highlight"].dtype == np.int64


def _by_hand(rows, room):
    """Retention and density of each window of a room with a viewer, the slow way."""
    rows = sorted({r for r in rows if r[3 + 1] == room}, key=lambda r: (r[1], r[0]))
    windows = [int(r[1] // 30) for r in rows]

    def present(second):
        there = set()
        for kind, when, user, *_ in rows:
            if when < second and kind in (ENTER, LEAVE):
                (there.add if kind == ENTER else there.discard)(user)
        return there

    found = []
    for window in range(min(windows), max(windows) + 1):
        inside = [r for r in rows if r[1] // 30 == window]
        start, end = present(window * 30), present(window * 30 + 30)
        viewers = start | {r[2] for r in inside if r[0] in (ENTER, LIKE, COMMENT)}
        if viewers:
            reactions = sum({LIKE: 1, COMMENT: 2}.get(r[0], 0) for r in inside)
            retention = len(start & end) / len(start) if start else np.nan
            found.append(((window + 1) * 30, retention, reactions / len(viewers)))
    return found


@settings(max_examples=100, deadline=None)
@given(event_rows((ENTER, LEAVE, LIKE, COMMENT)))
def test_windows_equal_counting_by_hand(rows):
    moments = highlight_moments(log(*sorted(set(rows))))
    for room in {row[4] for row in rows}:
        of_room = take(moments, np.flatnonzero(moments["live_id"] == room))
        seconds = (of_room["window_end_ms"] - NOON_MS) // 1000
        found = list(zip(seconds.tolist(), of_room["retention"], of_room["density"], strict=True))
        np.testing.assert_array_equal(np.array(found), np.array(_by_hand(rows, room)))
        assert of_room["highlight"].sum() <= 0.3 * len(found)
        assert of_room["next_highlight"].tolist() == [*of_room["highlight"].tolist(), UNKNOWN][1 : len(found) + 1]
        if of_room["highlight"].any():
            assert of_room["score"][of_room["highlight"] == 1].min() > of_room["score"][of_room["highlight"] == 0].max()


def test_transform_counts_equal_events_once():
    register_coders()
    events = log(*ROOM)

    def check(batches):
        rows = [to_columns([batch]) for batch in batches if batch.num_rows]
        assert len(rows) == 1
        for name, values in highlight_moments(events).items():
            np.testing.assert_array_equal(rows[0][name], values)

    with TestPipeline() as pipeline:
        parts = [to_batch(take(events, part)) for part in (np.arange(6, 13), np.arange(8)[::-1])]
        assert_that(pipeline | beam.Create(parts) | HighlightMoments(), check)


@pytest.mark.parametrize("arguments", [{"density_weight": -1}, {"share": 1.0}, {"period_ms": 0}])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ValueError, match="weights must be >= 0, share inside"):
        HighlightMoments(**arguments)


def test_the_window_is_the_papers():
    assert WINDOW_MS == 30_000
