import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA, EventKind, Task
from beam_transforms.sliver import Sliver
from tests.beam_transforms.event_logs import NOON_MS, log
from tests.beam_transforms.label_streams import (
    FAR_MS,
    SHOWN_ROWS,
    STREAM_TASKS,
    VISIT_ROWS,
    check_law_of_streams,
    emitted,
    shown,
    shown_at_half_seconds,
    timeline,
)
from tests.beam_transforms.visit_simulation import simulate_visit

ENTER, LEAVE, LIKE, GIFT = EventKind.ENTER, EventKind.LEAVE, EventKind.LIKE, EventKind.GIFT

TASKS = CTR, EVTR, LVTR, LTR, GTR = tuple(
    LIVE_SCHEMA.tasks[LIVE_SCHEMA.task_names.index(name)] for name in ("ctr", "evtr", "lvtr", "ltr", "gtr")
)


def _labelled(events, impressions, tasks=TASKS, watermark_ms=FAR_MS, **arguments):
    return emitted(Sliver(**arguments).label(events, impressions, tasks, watermark_ms), tasks)


def test_each_window_says_what_it_learned():
    events = timeline(
        (ENTER, 105),
        (LIKE, 150),
        (LIKE, 200),  # adds nothing
        (GIFT, 189.999),
        (LEAVE, 239),
    )
    assert _labelled(events, shown((1, 7, 100))) == [
        (0, 130, {"ctr": 1, "evtr": 1}),
        (0, 160, {"ltr": 1}),
        (0, 190, {"lvtr": 1, "gtr": 1}),  # 60 seconds at 165
    ]
    without_gift = timeline((ENTER, 105), (LEAVE, 239))
    assert _labelled(without_gift, shown((1, 7, 100))) == [
        (0, 130, {"ctr": 1, "evtr": 1}),
        (0, 190, {"lvtr": 1}),
        (0, 250, {"ltr": 0, "gtr": 0}),
    ]


@pytest.mark.parametrize(
    ("leave_s", "rows"),
    [
        (14.999, [(0, 30, {"ctr": 1, "evtr": 0, "lvtr": 0})]),
        (15, [(0, 30, {"ctr": 1, "evtr": 1, "lvtr": 0})]),
        (29.999, [(0, 30, {"ctr": 1, "evtr": 1, "lvtr": 0})]),
        (30, [(0, 30, {"ctr": 1, "evtr": 1}), (0, 60, {"lvtr": 0})]),
        (64.999, [(0, 30, {"ctr": 1, "evtr": 1}), (0, 90, {"lvtr": 0})]),
        (65, [(0, 30, {"ctr": 1, "evtr": 1}), (0, 90, {"lvtr": 1})]),
    ],
)
def test_watch_time_and_the_edges_of_windows(leave_s, rows):
    assert _labelled(timeline((ENTER, 5), (LEAVE, leave_s)), shown((1, 7, 0)), (CTR, EVTR, LVTR)) == rows


def test_watch_time_reached_at_a_window_s_end_is_known_then():
    assert _labelled(timeline((ENTER, 20)), shown((1, 7, 0)), (EVTR,), NOON_MS + 30_000) == [(0, 30, {"evtr": 1})]


def test_late_click_and_a_gift_after_an_hour():
    late = timeline((ENTER, 3570), (LIKE, 3599.999), (LEAVE, 4000), (GIFT, 3600))
    assert _labelled(late, shown((1, 7, 0))) == [
        (0, 3600, {"ctr": 1, "evtr": 1, "lvtr": 0, "ltr": 1, "gtr": 0}),
    ]
    too_late = timeline((ENTER, 3600), (GIFT, 3700))
    assert _labelled(too_late, shown((1, 7, 0))) == [(0, 3600, {"ctr": 0})]


def test_who_never_leaves_has_left_at_the_horizon():
    assert _labelled(timeline((ENTER, 5)), shown((1, 7, 0)), (CTR, LTR)) == [(0, 30, {"ctr": 1}), (0, 3600, {"ltr": 0})]
    assert _labelled(timeline((ENTER, 5)), shown((1, 7, 0)), (CTR, LTR), horizon_s=120)[1] == (0, 120, {"ltr": 0})


def test_without_a_click_only_the_click_is_labelled():
    never = _labelled(log(), shown((1, 7, 0)))
    assert never == [(0, 3600, {"ctr": 0})]
    exit_without_click = timeline((LEAVE, 44))
    assert _labelled(exit_without_click, shown((1, 7, 0))) == [(0, 60, {"ctr": 0})]
    assert _labelled(exit_without_click, shown((1, 7, 0)), label_unclicked=True) == [
        (0, 60, {"ctr": 0, "evtr": 0, "lvtr": 0, "ltr": 0, "gtr": 0})
    ]
    liked_from_outside = timeline((LIKE, 44))
    assert _labelled(liked_from_outside, shown((1, 7, 0)), (CTR, LTR)) == [(0, 60, {"ltr": 1}), (0, 3600, {"ctr": 0})]


def test_a_reentry_belongs_to_no_impression():
    events = timeline((ENTER, 5), (LEAVE, 8), (ENTER, 40), (LIKE, 50), (LEAVE, 200))
    once = [(0, 30, {"ctr": 1, "evtr": 0, "lvtr": 0, "ltr": 0, "gtr": 0})]
    assert _labelled(events, shown((1, 7, 0))) == once
    # ... unless another impression led to it.
    assert _labelled(events, shown((1, 7, 0), (1, 7, 39))) == [
        *once,
        (1, 69, {"ctr": 1, "evtr": 1, "ltr": 1}),
        (1, 129, {"lvtr": 1}),
        (1, 219, {"gtr": 0}),
    ]


def test_a_reentry_in_the_window_of_the_exit_still_counts_in_it():
    events = timeline((ENTER, 5), (LEAVE, 8), (ENTER, 10), (LIKE, 29), (GIFT, 31))
    assert _labelled(events, shown((1, 7, 0))) == [(0, 30, {"ctr": 1, "evtr": 0, "lvtr": 0, "ltr": 1, "gtr": 0})]
    # Of an earlier visit the exit, then the click of this impression, in one window.
    events = timeline((LEAVE, 3), (ENTER, 10), (LEAVE, 100))
    assert _labelled(events, shown((1, 7, 0)), (CTR, LVTR)) == [(0, 30, {"ctr": 1}), (0, 90, {"lvtr": 1})]


def test_shown_again_before_a_window_ended():
    # Not entered before it was shown again: the first one has failed.
    events = timeline((ENTER, 12), (LIKE, 20), (LEAVE, 29))
    assert _labelled(events, shown((1, 7, 0), (1, 7, 10)), (CTR, EVTR, LTR)) == [
        (0, 30, {"ctr": 0}),
        (1, 40, {"ctr": 1, "evtr": 1, "ltr": 1}),
    ]


def test_shown_again_while_inside():
    """Actions from then on are the second impression's, the watch time is the first one's."""
    events = timeline((ENTER, 2), (LIKE, 20), (LEAVE, 70))
    assert _labelled(events, shown((1, 7, 0), (1, 7, 10)), (CTR, EVTR, LVTR, LTR)) == [
        (0, 30, {"ctr": 1, "evtr": 1}),
        (1, 40, {"ltr": 1}),
        (0, 90, {"lvtr": 1, "ltr": 0}),
        (1, 100, {"ctr": 0}),
    ]


def test_two_impressions_at_one_time_in_different_rooms():
    events = log((ENTER, 1, 1, 0, 8, 1), (LEAVE, 3, 1, 0, 8, 2))
    assert _labelled(events, shown((1, 7, 0), (1, 8, 0)), (CTR, LTR)) == [
        (1, 30, {"ctr": 1, "ltr": 0}),
        (0, 3600, {"ctr": 0}),
    ]


def test_a_task_with_seconds_of_its_own_is_decided_when_they_are_over():
    # A chat log knows of no entry and no exit.
    events = timeline((EventKind.COMMENT, 59.999), (EventKind.COMMENT, 121))
    assert _labelled(events, shown((1, 7, 0), (1, 7, 60), (1, 7, 120)), CHAT_SCHEMA.tasks) == [
        (0, 60, {"cmtr": 1}),
        (1, 120, {"cmtr": 0}),
        (2, 150, {"cmtr": 1}),
    ]
    odd = (Task("cmtr", EventKind.COMMENT, "within 45 seconds", within_s=45),)
    assert _labelled(timeline((EventKind.COMMENT, 45)), shown((1, 7, 0)), odd) == [(0, 60, {"cmtr": 0})]
    assert _labelled(timeline((ENTER, 1), (LEAVE, 2)), shown((1, 7, 0)), odd) == [(0, 30, {"cmtr": 0})]


def test_nothing_is_emitted_before_its_window_ended():
    events = timeline((ENTER, 5), (LEAVE, 8))
    assert _labelled(events, shown((1, 7, 0)), watermark_ms=NOON_MS + 29_999) == []
    assert len(_labelled(events, shown((1, 7, 0)), watermark_ms=NOON_MS + 30_000)) == 1


def test_nothing_in_nothing_out():
    nothing = Sliver().label(log(), shown(), TASKS, FAR_MS)
    assert nothing.label.shape == nothing.mask.shape == nothing.weight.shape == (0, len(TASKS))
    assert Sliver().label(timeline((LIKE, 1)), shown((1, 7, 0)), (), FAR_MS).label.shape == (0, 0)
    # All tasks unknown: no row at all.
    assert _labelled(log(), shown((1, 7, 0)), (LTR, GTR)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_s": 0}, "window_s must be at least a millisecond, got 0"),
        ({"horizon_s": 100}, r"a multiple of window_s = 30.0, got 100"),
        ({"horizon_s": 0}, "got 0"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sliver(**arguments)


def test_a_task_longer_than_the_horizon_is_named():
    with pytest.raises(ValueError, match=r"task 'lvtr' needs 60 s, the horizon of sliver has 30.0"):
        Sliver(horizon_s=30).label(log(), shown(), TASKS, FAR_MS)


@pytest.mark.parametrize("label_unclicked", [False, True])
def test_many_watermarks_give_what_one_gives(label_unclicked):
    check_law_of_streams(Sliver(15, 240, label_unclicked), 240)


@settings(max_examples=60, deadline=None)
@given(VISIT_ROWS, SHOWN_ROWS, st.booleans())
def test_labels_are_those_of_a_simulation_window_by_window(rows, shown_rows, label_unclicked):
    events, impressions = log(*rows), shown_at_half_seconds(shown_rows)
    policy = Sliver(30, 240, label_unclicked)
    expected: dict[tuple[int, int], dict[str, int]] = {}
    for row, start in enumerate(impressions["timestamp_ms"].tolist()):
        ends = [start + 30_000 * window for window in range(1, 9)]
        for task in STREAM_TASKS:
            outcome = simulate_visit(events, impressions, row, task, ends, 240_000, label_unclicked)
            if outcome is not None:
                expected.setdefault((row, outcome[0]), {})[task.name] = outcome[1]
    labels = policy.label(events, impressions, STREAM_TASKS, FAR_MS)
    found = {(row, NOON_MS + round(second * 1000)): known for row, second, known in emitted(labels, STREAM_TASKS)}
    assert found == expected
    assert len(found) == len(labels.impression)


def test_a_click_in_a_window_after_the_exit_is_too_late():
    assert _labelled(timeline((LEAVE, 3), (ENTER, 40), (LEAVE, 99)), shown((1, 7, 0))) == [(0, 30, {"ctr": 0})]
