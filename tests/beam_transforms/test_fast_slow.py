import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_transforms.fast_slow import FastSlow
from beam_transforms.labels import FastWindow
from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA, EventKind, Task
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

NAMES = [task.name for task in STREAM_TASKS]


def _labelled(events, impressions, tasks=STREAM_TASKS, watermark_ms=FAR_MS):
    return emitted(FastSlow().label(events, impressions, tasks, watermark_ms), tasks)


def _all(*positive):
    return {name: int(name in positive) for name in NAMES}


def test_a_late_positive_is_two_rows_that_correct_the_negative():
    events = timeline((EventKind.ENTER, 101), (EventKind.LIKE, 150), (EventKind.GIFT, 1900), (EventKind.LEAVE, 2000))
    assert _labelled(events, shown((1, 7, 100))) == [
        (0, 400, _all("ctr", "evtr", "lvtr", "ltr")),
        (0, 3700, {"gtr": 1}),
        (0, 3700, {"gtr": 0}, -1),
    ]


def test_the_edges_of_both_windows():
    impressions = shown((1, 7, 0), (2, 7, 0), (3, 7, 0), (4, 7, 0))
    seconds = (299.999, 300, 3599.999, 3600)
    events = log(*((EventKind.GIFT, second, user, 0, 7, 1) for user, second in zip((1, 2, 3, 4), seconds, strict=True)))
    rows = _labelled(events, impressions)
    assert [row[2]["gtr"] for row in rows[:4]] == [1, 0, 0, 0]
    assert rows[4:] == [  # a gift after an hour is lost
        (1, 3600, {"gtr": 1}),
        (1, 3600, {"gtr": 0}, -1),
        (2, 3600, {"gtr": 1}),
        (2, 3600, {"gtr": 0}, -1),
    ]


def test_late_click_and_watch_time_that_is_reached_late():
    # Entered at 280: ten seconds are reached in the fast window, sixty in the slow one.
    soon = timeline((EventKind.ENTER, 280), (EventKind.LEAVE, 400))
    assert _labelled(soon, shown((1, 7, 0))) == [
        (0, 300, _all("ctr", "evtr")),
        (0, 3600, {"lvtr": 1}),
        (0, 3600, {"lvtr": 0}, -1),
    ]
    late = timeline((EventKind.ENTER, 1000), (EventKind.LEAVE, 1010))
    assert _labelled(late, shown((1, 7, 0)))[1] == (0, 3600, {"ctr": 1, "evtr": 1})
    at_the_end = timeline((EventKind.ENTER, 3590))  # still there: ten seconds by the window's end, not sixty
    assert _labelled(at_the_end, shown((1, 7, 0)))[1] == (0, 3600, {"ctr": 1, "evtr": 1})


def test_exits_do_not_end_a_window_and_the_first_visit_is_what_watch_time_counts():
    events = timeline(
        (EventKind.ENTER, 1),
        (EventKind.LEAVE, 6),
        (EventKind.ENTER, 20),  # a re-entry: its actions count, its watch time doesn't
        (EventKind.LIKE, 30),
        (EventKind.LEAVE, 500),
        (EventKind.ENTER, 600),
        (EventKind.GIFT, 610),
    )
    assert _labelled(events, shown((1, 7, 0))) == [
        (0, 300, _all("ctr", "ltr")),
        (0, 3600, {"gtr": 1}),
        (0, 3600, {"gtr": 0}, -1),
    ]


def test_an_exit_without_a_click_is_no_positive():
    assert _labelled(timeline((EventKind.LEAVE, 5)), shown((1, 7, 0))) == [(0, 300, _all())]


def test_the_next_impression_of_the_room_takes_what_comes_after_it():
    events = timeline((EventKind.ENTER, 10), (EventKind.LIKE, 100), (EventKind.GIFT, 1000))
    rows = _labelled(events, shown((1, 7, 0), (1, 7, 50), (1, 8, 50), (2, 7, 50)))
    assert rows[0] == (0, 300, _all("ctr", "evtr", "lvtr"))
    assert rows[1:4] == [(1, 350, _all("ltr")), (2, 350, _all()), (3, 350, _all())]
    assert rows[4:] == [(1, 3650, {"gtr": 1}), (1, 3650, {"gtr": 0}, -1)]


def test_two_impressions_at_one_time_in_different_rooms():
    events = log((EventKind.LIKE, 10, 1, 0, 7, 1), (EventKind.GIFT, 700, 1, 0, 8, 1))
    rows = _labelled(events, shown((1, 7, 0), (1, 8, 0)))
    assert rows == [
        (0, 300, _all("ltr")),
        (1, 300, _all()),
        (1, 3600, {"gtr": 1}),
        (1, 3600, {"gtr": 0}, -1),
    ]


def test_within_s_and_tasks_longer_than_the_fast_window():
    tasks = (
        *CHAT_SCHEMA.tasks,
        Task("half_hour", EventKind.COMMENT, "comments within half an hour", within_s=1800),
        Task("ten_minutes", EventKind.LEAVE, "watched ten minutes", watch_s=600),
    )
    events = timeline((EventKind.ENTER, 1), (EventKind.COMMENT, 1799.999))
    assert _labelled(events, shown((1, 7, 0)), tasks) == [
        (0, 300, {"cmtr": 0, "half_hour": 0, "ten_minutes": 0}),
        (0, 3600, {"half_hour": 1, "ten_minutes": 1}),
        (0, 3600, {"half_hour": 0, "ten_minutes": 0}, -1),
    ]
    too_late = timeline((EventKind.COMMENT, 1800))
    assert _labelled(too_late, shown((1, 7, 0)), tasks[:2]) == [(0, 300, {"cmtr": 0, "half_hour": 0})]


def test_nothing_is_emitted_before_its_time():
    events, impressions = timeline((EventKind.GIFT, 1000)), shown((1, 7, 0))
    for watermark, rows in ((299.999, 0), (300, 1), (3599.999, 1), (3600, 3)):
        assert len(_labelled(events, impressions, watermark_ms=NOON_MS + round(watermark * 1000))) == rows


def test_nothing_in_nothing_out():
    nothing = FastSlow().label(log(), shown(), STREAM_TASKS, FAR_MS)
    assert nothing.label.shape == nothing.mask.shape == nothing.weight.shape == (0, len(STREAM_TASKS))
    assert _labelled(log(), shown((1, 7, 0))) == [(0, 300, _all())]
    assert FastSlow().label(timeline((EventKind.LIKE, 1)), shown((1, 7, 0)), (), FAR_MS).label.shape == (1, 0)


def test_the_fast_half_is_the_fast_window():
    events = timeline((EventKind.ENTER, 30), (EventKind.LIKE, 290), (EventKind.GIFT, 400), (EventKind.LEAVE, 401))
    impressions = shown((1, 7, 0), (1, 7, 35), (2, 7, 3))
    fast = FastWindow().label(events, impressions, LIVE_SCHEMA.tasks, FAR_MS)
    both = FastSlow().label(events, impressions, LIVE_SCHEMA.tasks, FAR_MS)
    for name in ("impression", "emitted_ms", "label", "mask", "weight"):
        np.testing.assert_array_equal(getattr(both, name)[:3], getattr(fast, name))


@given(st.floats(-15, 15))
def test_the_three_rows_together_are_a_plain_positive(logit):
    """Loss and gradient, with the rows that the policy gives."""
    labels = FastSlow().label(timeline((EventKind.GIFT, 1000)), shown((1, 7, 0)), STREAM_TASKS, FAR_MS)
    gift = NAMES.index("gtr")
    label, factor = labels.label[:, gift], (labels.mask * labels.weight)[:, gift]
    assert len(label) == 3
    probability = 1 / (1 + np.exp(-logit))
    loss = factor @ (np.logaddexp(0, -logit) * label + np.logaddexp(0, logit) * (1 - label))
    gradient = factor @ (probability - label)
    assert loss == pytest.approx(np.logaddexp(0, -logit), rel=1e-6, abs=1e-9)
    assert gradient == pytest.approx(probability - 1, rel=1e-6, abs=1e-9)
    for other in range(len(NAMES)):  # the other tasks are plain negatives
        if other != gift:
            assert (labels.mask * labels.weight)[:, other].tolist() == [1, 0, 0]


def test_the_rankers_loss_is_linear_in_negative_weights():
    """Keras multiplies by the weight and divides by the number of rows, not by the sum of the weights."""
    probability = np.array([[0.3], [0.3], [0.3]], dtype=np.float32)
    rows = keras.losses.BinaryCrossentropy()(
        np.array([[0.0], [1.0], [0.0]]), probability, sample_weight=np.array([1.0, 1.0, -1.0])
    )
    assert float(rows) * 3 == pytest.approx(-np.log(0.3), rel=1e-5)


@pytest.mark.parametrize(("fast", "slow"), [(0, 10), (-1, 10), (10, 10), (20, 10)])
def test_the_windows_must_follow_each_other(fast, slow):
    with pytest.raises(ValueError, match=f"less than slow_s, got {fast} and {slow}"):
        FastSlow(fast, slow)


def test_a_task_longer_than_the_slow_window_is_named():
    task = Task("xlvtr", EventKind.LEAVE, "two hours", watch_s=7200)
    with pytest.raises(ValueError, match=r"task 'xlvtr' needs 7200 s, the slow window has 3600"):
        FastSlow().label(log(), shown(), (task,), FAR_MS)


def test_many_watermarks_give_what_one_gives():
    check_law_of_streams(FastSlow(60, 200), 200)


@given(VISIT_ROWS, SHOWN_ROWS)
def test_both_windows_together_are_one_window_of_the_slow_length(rows, shown_rows):
    events, impressions = log(*rows), shown_at_half_seconds(shown_rows)
    labels = FastSlow(60, 200).label(events, impressions, STREAM_TASKS, FAR_MS)
    total = {}
    for name, label in (("positive", labels.label), ("negative", 1 - labels.label)):
        total[name] = np.zeros((len(impressions["user_id"]), len(STREAM_TASKS)))
        np.add.at(total[name], labels.impression, labels.mask * labels.weight * label)
    slow = FastWindow(200).label(events, impressions, STREAM_TASKS, FAR_MS)
    np.testing.assert_array_equal(total["positive"], slow.label)
    np.testing.assert_array_equal(total["negative"], 1 - slow.label)
