import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms.first_only import FirstOnly
from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA, ROOM_MEMORY_MS, EventKind, Task
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
from tests.beam_transforms.visit_simulation import fulfilled_times, simulate_visit

ENTER, LEAVE, LIKE, GIFT = EventKind.ENTER, EventKind.LEAVE, EventKind.LIKE, EventKind.GIFT
MEMORY_S = ROOM_MEMORY_MS // 1000

TASKS = CTR, EVTR, LVTR, LTR, GTR = tuple(
    LIVE_SCHEMA.tasks[LIVE_SCHEMA.task_names.index(name)] for name in ("ctr", "evtr", "lvtr", "ltr", "gtr")
)


def _labelled(events, impressions, tasks=TASKS, watermark_ms=FAR_MS, **arguments):
    return emitted(FirstOnly(**arguments).label(events, impressions, tasks, watermark_ms), tasks)


def test_positives_at_once_and_negatives_at_the_exit():
    events = timeline((ENTER, 105), (LIKE, 150), (LIKE, 151), (LEAVE, 160))
    assert _labelled(events, shown((1, 7, 100))) == [
        (0, 105.001, {"ctr": 1}),
        (0, 115, {"evtr": 1}),
        (0, 150.001, {"ltr": 1}),
        (0, 160.001, {"lvtr": 0, "gtr": 0}),
    ]


def test_actions_of_one_time_share_a_row():
    events = timeline((ENTER, 10), (LIKE, 20), (GIFT, 20), (LEAVE, 20))
    assert _labelled(events, shown((1, 7, 10))) == [
        (0, 10.001, {"ctr": 1}),
        (0, 20, {"evtr": 1}),
        (0, 20.001, {"lvtr": 0, "ltr": 1, "gtr": 1}),  # what falls together with the exit was done before it
    ]


@pytest.mark.parametrize(
    ("leave_s", "evtr", "lvtr"),
    [
        (14.999, (14.999 + 0.001, 0), (15.0, 0)),
        (15, (15.0, 1), (15.001, 0)),
        (64.999, (15.0, 1), (65.0, 0)),
        (65, (15.0, 1), (65.0, 1)),
    ],
)
def test_watch_time_is_known_when_it_is_reached(leave_s, evtr, lvtr):
    rows = _labelled(timeline((ENTER, 5), (LEAVE, leave_s)), shown((1, 7, 0)), (EVTR, LVTR))
    told = {(name, second, label) for _, second, labels in rows for name, label in labels.items()}
    assert told == {("evtr", *evtr), ("lvtr", *lvtr)}


def test_only_the_first_of_a_pair_is_emitted():
    visit = ((ENTER, 1), (LIKE, 5), (LEAVE, 9))
    events = timeline(*visit, *((kind, second + 1000) for kind, second in visit))
    first = [(0, 1.001, {"ctr": 1}), (0, 5.001, {"ltr": 1}), (0, 9.001, {"gtr": 0})]
    assert _labelled(events, shown((1, 7, 0), (1, 7, 1000)), (CTR, LTR, GTR)) == [*first, (1, 1009.001, {"gtr": 0})]
    # Another room and another user have firsts of their own.
    other_room = log(*((kind, second, 1, 0, room, 1) for room in (7, 8) for kind, second in visit))
    assert len(_labelled(other_room, shown((1, 7, 0), (1, 8, 0)), (CTR, LTR, GTR))) == 6
    other_user = log(*((kind, second, user, 0, 7, 1) for user in (1, 2) for kind, second in visit))
    assert len(_labelled(other_user, shown((1, 7, 0), (2, 7, 0)), (CTR, LTR, GTR))) == 6


def test_a_task_that_the_pair_has_done_has_no_negatives_either():
    events = timeline((ENTER, 1), (LIKE, 5), (LEAVE, 9), (ENTER, 1001), (LEAVE, 1009))
    impressions = shown((1, 7, 0), (1, 7, 1000), (1, 7, 2000))
    # The second visit is no first one and has no like; the third impression isn't entered.
    assert _labelled(events, impressions, (CTR, LTR))[2:] == []
    assert _labelled(events, impressions, (CTR, LTR), negatives_after_first=True)[2:] == [
        (1, 1009.001, {"ltr": 0}),
        (2, 5600, {"ctr": 0, "ltr": 0}),
    ]


def test_a_first_without_an_impression_is_remembered_too():
    events = timeline((LIKE, 0), (ENTER, 101), (LIKE, 105), (LEAVE, 110))
    assert _labelled(events, shown((1, 7, 100)), (CTR, LTR)) == [(0, 101.001, {"ctr": 1})]


@pytest.mark.parametrize(
    ("gap_s", "rows"),
    [
        (MEMORY_S, []),
        (MEMORY_S + 0.001, [(0, MEMORY_S + 0.002, {"ltr": 1})]),
    ],
)
def test_after_the_memory_an_action_is_a_first_one_again(gap_s, rows):
    events = timeline((LIKE, 0), (LIKE, gap_s))
    assert _labelled(events, shown((1, 7, gap_s - 50)), (LTR,)) == rows
    # The memory goes from action to action: a series without a gap has one first.
    series = timeline(*((LIKE, MEMORY_S * step / 2) for step in range(5)))
    shows = shown(*((1, 7, MEMORY_S * step / 2 - 50) for step in range(5)))
    assert _labelled(series, shows, (LTR,)) == [(0, 0.001, {"ltr": 1})]


def test_the_memory_of_watch_time():
    first = ((ENTER, 1), (LEAVE, 70))
    short = ((ENTER, 1001), (LEAVE, 1030))
    long = ((ENTER, 2001), (LEAVE, 2900))
    impressions = shown((1, 7, 0), (1, 7, 1000), (1, 7, 2000))
    assert _labelled(timeline(*first, *short, *long), impressions, (LVTR,)) == [(0, 61, {"lvtr": 1})]
    assert _labelled(timeline(*short, *long), impressions, (LVTR,)) == [
        (0, 1000.001, {"lvtr": 0}),
        (1, 1030.001, {"lvtr": 0}),
        (2, 2061, {"lvtr": 1}),
    ]


def test_who_never_enters_or_never_leaves_is_gone_at_the_horizon():
    assert _labelled(log(), shown((1, 7, 0))) == [(0, 3600, dict.fromkeys(("ctr", "evtr", "lvtr", "ltr", "gtr"), 0))]
    stays = timeline((ENTER, 5), (GIFT, 3600))  # a gift after an hour is lost
    assert _labelled(stays, shown((1, 7, 0)), (CTR, GTR)) == [(0, 5.001, {"ctr": 1}), (0, 3600, {"gtr": 0})]
    stays = timeline((ENTER, 5), (GIFT, 3599.999))
    assert _labelled(stays, shown((1, 7, 0)), (CTR, GTR)) == [(0, 5.001, {"ctr": 1}), (0, 3600, {"gtr": 1})]
    late = timeline((ENTER, 3599), (LEAVE, 4000))
    assert _labelled(late, shown((1, 7, 0)), (CTR, EVTR)) == [(0, 3599.001, {"ctr": 1}), (0, 3600, {"evtr": 0})]


def test_an_exit_without_a_click_is_a_negative_of_all():
    assert _labelled(timeline((LEAVE, 44)), shown((1, 7, 0)), (CTR, LTR)) == [(0, 44.001, {"ctr": 0, "ltr": 0})]


def test_a_reentry_belongs_to_no_impression():
    events = timeline((ENTER, 5), (LEAVE, 8), (ENTER, 9), (LIKE, 10), (LEAVE, 200))
    assert _labelled(events, shown((1, 7, 0)), (CTR, EVTR, LTR)) == [
        (0, 5.001, {"ctr": 1}),
        (0, 8.001, {"evtr": 0, "ltr": 0}),
    ]


def test_shown_again():
    # Not entered before it was shown again: the first one has failed.
    events = timeline((ENTER, 12), (LIKE, 20), (LEAVE, 29))
    assert _labelled(events, shown((1, 7, 0), (1, 7, 10)), (CTR, LTR)) == [
        (0, 10.001, {"ctr": 0, "ltr": 0}),
        (1, 12.001, {"ctr": 1}),
        (1, 20.001, {"ltr": 1}),
    ]
    # Inside when it is shown again: actions from then on are the second one's, the watch time is the first one's.
    events = timeline((ENTER, 2), (LIKE, 20), (LEAVE, 70))
    assert _labelled(events, shown((1, 7, 0), (1, 7, 10)), (CTR, EVTR, LTR, GTR)) == [
        (0, 2.001, {"ctr": 1}),
        (0, 12, {"evtr": 1}),
        (1, 20.001, {"ltr": 1}),
        (0, 70.001, {"ltr": 0, "gtr": 0}),
        (1, 70.001, {"evtr": 0, "gtr": 0}),
    ]


def test_two_impressions_at_one_time_in_different_rooms():
    events = log((ENTER, 1, 1, 0, 8, 1), (LEAVE, 3, 1, 0, 8, 2))
    assert _labelled(events, shown((1, 7, 0), (1, 8, 0)), (CTR, LTR)) == [
        (1, 1.001, {"ctr": 1}),
        (1, 3.001, {"ltr": 0}),
        (0, 3600, {"ctr": 0, "ltr": 0}),
    ]


def test_a_task_with_seconds_of_its_own_is_decided_when_they_are_over():
    impressions = shown((1, 7, 0), (2, 7, 0))
    events = log((EventKind.COMMENT, 59.999, 1, 0, 7, 1), (EventKind.COMMENT, 60, 2, 0, 7, 1))
    assert _labelled(events, impressions, CHAT_SCHEMA.tasks) == [(0, 60, {"cmtr": 1}), (1, 60, {"cmtr": 0})]


def test_nothing_is_emitted_before_it_is_known():
    events = timeline((ENTER, 5))
    assert _labelled(events, shown((1, 7, 0)), watermark_ms=NOON_MS + 5000) == []
    assert len(_labelled(events, shown((1, 7, 0)), watermark_ms=NOON_MS + 5001)) == 1


def test_nothing_in_nothing_out():
    nothing = FirstOnly().label(log(), shown(), TASKS, FAR_MS)
    assert nothing.label.shape == nothing.mask.shape == nothing.weight.shape == (0, len(TASKS))
    assert FirstOnly().label(timeline((LIKE, 1)), shown((1, 7, 0)), (), FAR_MS).label.shape == (0, 0)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="must be positive, got 0 and 5"):
        FirstOnly(0, 5)
    with pytest.raises(ValueError, match="must be positive, got 5 and -1"):
        FirstOnly(5, -1)
    task = Task("xlvtr", LEAVE, "two hours", watch_s=7200)
    with pytest.raises(ValueError, match=r"task 'xlvtr' needs 7200 s, the horizon of first_only has 3600"):
        FirstOnly().label(log(), shown(), (task,), FAR_MS)


@pytest.mark.parametrize(("memory_s", "negatives"), [(60, False), (150, True), (400, False)])
def test_many_watermarks_give_what_one_gives(memory_s, negatives):
    check_law_of_streams(FirstOnly(200, memory_s, negatives), 200)


@settings(max_examples=60, deadline=None)
@given(VISIT_ROWS, SHOWN_ROWS, st.sampled_from([30, 150, 400]), st.booleans())
def test_labels_are_those_of_a_simulation_moment_by_moment(rows, shown_rows, memory_s, negatives_after_first):
    events, impressions = log(*rows), shown_at_half_seconds(shown_rows)
    expected: dict[tuple[int, int], dict[str, int]] = {}
    for row, start in enumerate(impressions["timestamp_ms"].tolist()):
        user, room = int(impressions["user_id"][row]), int(impressions["live_id"][row])
        for task in STREAM_TASKS:
            # Nothing becomes known but 1 ms after an event or an impression, or some whole half seconds after one.
            moments = {start + half * 500 for half in range(1, 401)} | {start + half * 500 + 1 for half in range(400)}
            outcome = simulate_visit(events, impressions, row, task, sorted(moments), 200_000, True)
            done = fulfilled_times(events, user, room, task)
            if outcome[1]:
                masked = any(outcome[2] - memory_s * 1000 <= time < outcome[2] for time in done)
            else:
                length = round((task.watch_s or 0) * 1000)
                masked = any(start - memory_s * 1000 <= time < start - length for time in done)
                masked &= not negatives_after_first
            if not masked:
                expected.setdefault((row, outcome[0]), {})[task.name] = outcome[1]
    labels = FirstOnly(200, memory_s, negatives_after_first).label(events, impressions, STREAM_TASKS, FAR_MS)
    found = {(row, NOON_MS + round(second * 1000)): known for row, second, known in emitted(labels, STREAM_TASKS)}
    assert found == expected
    assert len(found) == len(labels.impression)


@settings(max_examples=100, deadline=None)
@given(VISIT_ROWS, SHOWN_ROWS)
def test_a_pair_has_no_two_positives_of_a_task_within_the_memory(rows, shown_rows):
    impressions = shown_at_half_seconds(shown_rows)
    labels = FirstOnly(200, 300).label(log(*rows), impressions, STREAM_TASKS, FAR_MS)
    pairs = impressions["user_id"][labels.impression] * 10 + impressions["live_id"][labels.impression]
    for column in range(len(STREAM_TASKS)):
        positive = (labels.mask * labels.label)[:, column] > 0
        for pair in set(pairs[positive].tolist()):
            times = np.sort(labels.emitted_ms[positive & (pairs == pair)])
            assert (np.diff(times) > 300_000).all()
