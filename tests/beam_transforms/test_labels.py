import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from beam_transforms.labels import FastWindow, labels_at
from beam_transforms.room_actions import NEVER_MS
from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA, EventKind, Task
from tests.beam_transforms.event_logs import NOON_MS, log
from tests.beam_transforms.label_streams import (
    FAR_MS,
    SHOWN_ROWS,
    STREAM_TASKS,
    VISIT_ROWS,
    check_law_of_streams,
    shown_at_half_seconds,
)

TASKS = LIVE_SCHEMA.task_names
FAR = NOON_MS + 10_000_000


def _impressions(*rows):
    user, room, seconds = zip(*rows, strict=True)
    times = NOON_MS + (np.array(seconds) * 1000).astype(np.int64)
    return {"user_id": np.array(user), "live_id": np.array(room), "timestamp_ms": times}


def _positive(labels, row):
    return {task for task, label in zip(TASKS, labels.label[row], strict=True) if label}


def test_what_follows_the_impression_within_the_window_is_positive():
    events = log(
        (EventKind.ENTER, 100, 1, 0, 7, 1),
        (EventKind.LIKE, 130, 1, 0, 7, 1),
        (EventKind.LEAVE, 161, 1, 0, 7, 61),
        (EventKind.GIFT, 399.999, 1, 0, 7, 5),
        (EventKind.SHARE, 400, 1, 0, 7, 1),  # at the end of the window: too late
        (EventKind.COMMENT, 99.999, 1, 0, 7, 1),  # before the impression
        (EventKind.FOLLOW, 150, 2, 0, 7, 1),  # somebody else
    )
    labels = FastWindow().label(events, _impressions((1, 7, 100), (1, 8, 100)), LIVE_SCHEMA.tasks, FAR)
    assert labels.impression.tolist() == [0, 1]
    assert _positive(labels, 0) == {"ctr", "evtr", "lvtr", "ltr", "gtr"}
    assert _positive(labels, 1) == set()
    assert labels.mask.all() and (labels.weight == 1).all()
    assert ((labels.emitted_ms - NOON_MS) == 400_000).all()


@pytest.mark.parametrize(
    ("leave_s", "positive"),
    [(109.999, {"ctr"}), (110, {"ctr", "evtr"}), (159.999, {"ctr", "evtr"}), (160, {"ctr", "evtr", "lvtr"})],
)
def test_watch_time_counts_from_entry_to_exit(leave_s, positive):
    events = log((EventKind.ENTER, 100, 1, 0, 7, 1), (EventKind.LEAVE, leave_s, 1, 0, 7, leave_s - 100))
    assert _positive(FastWindow().label(events, _impressions((1, 7, 100)), LIVE_SCHEMA.tasks, FAR), 0) == positive


def test_who_is_still_there_at_the_end_of_the_window_has_watched_until_then():
    events = log((EventKind.ENTER, 100, 1, 0, 7, 1))
    for entry, positive in ((100, {"ctr", "evtr", "lvtr"}), (350, {"ctr", "evtr"}), (395, {"ctr"})):
        events["timestamp_ms"][:] = NOON_MS + entry * 1000
        labels = FastWindow().label(events, _impressions((1, 7, 100)), LIVE_SCHEMA.tasks, FAR)
        assert _positive(labels, 0) == positive


def test_an_action_belongs_to_the_last_impression_before_it():
    events = log((EventKind.LIKE, 150, 1, 0, 7, 1), (EventKind.COMMENT, 120, 1, 0, 7, 1))
    labels = FastWindow().label(events, _impressions((1, 7, 100), (1, 7, 140)), LIVE_SCHEMA.tasks, FAR)
    assert [_positive(labels, row) for row in (0, 1)] == [{"cmtr"}, {"ltr"}]


def test_an_impression_is_labelled_when_its_window_has_ended():
    impressions = _impressions((1, 7, 100), (1, 8, 100.001))
    labels = FastWindow().label(log((EventKind.LIKE, 1, 1, 0, 7, 1)), impressions, LIVE_SCHEMA.tasks, NOON_MS + 400_000)
    assert labels.impression.tolist() == [0]


def test_a_task_with_a_window_of_its_own():
    events = log((EventKind.COMMENT, 160, 1, 0, 7, 1), (EventKind.COMMENT, 219.9, 2, 0, 7, 1))
    labels = FastWindow().label(events, _impressions((1, 7, 100), (2, 7, 160)), CHAT_SCHEMA.tasks, FAR)
    assert labels.label.tolist() == [[0], [1]]


def test_a_window_shorter_than_a_task_needs_is_an_error():
    task = Task("xlvtr", EventKind.LEAVE, "very long view", watch_s=600)
    with pytest.raises(ValueError, match=r"task 'xlvtr' needs 600 s, the fast window has 300"):
        FastWindow().label(log((EventKind.LIKE, 1, 1, 0, 7, 1)), _impressions((1, 7, 1)), (task,), FAR)
    with pytest.raises(ValueError, match=r"window_s must be a number of seconds, at least \.001, got 0"):
        FastWindow(0)


def test_tasks_are_known_at_the_end_of_windows_of_their_own():
    events = log(
        (EventKind.ENTER, 129, 1, 0, 7, 1), (EventKind.LIKE, 131, 1, 0, 7, 1), (EventKind.ENTER, 131, 1, 0, 8, 1)
    )
    policy = FastWindow(task_window_s={"ctr": 30, "gtr": 600})
    impressions = _impressions((1, 7, 100), (1, 8, 100))
    labels = policy.label(events, impressions, LIVE_SCHEMA.tasks, NOON_MS + 400_000)
    assert policy.horizon_ms == 600_000
    assert labels.impression.tolist() == [0, 1, 0, 1]
    assert (labels.emitted_ms - NOON_MS).tolist() == [130_000, 130_000, 400_000, 400_000]
    assert [_positive(labels, row) for row in range(4)] == [{"ctr"}, set(), {"evtr", "lvtr", "ltr"}, {"evtr", "lvtr"}]
    others = [float(task not in ("ctr", "gtr")) for task in TASKS]
    assert labels.mask[[0, 2]].tolist() == [[float(task == "ctr") for task in TASKS], others]
    assert (labels.weight == 1).all() and labels.mask.dtype == labels.weight.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(VISIT_ROWS, SHOWN_ROWS, st.fixed_dictionaries({"ctr": st.integers(1, 300), "evtr": st.integers(10, 300)}))
def test_when_a_label_is_known_tells_nothing_of_it(rows, shown_rows, task_window_s):
    events, impressions = log(*rows), shown_at_half_seconds(shown_rows)
    policy = FastWindow(200, task_window_s)
    labels = policy.label(events, impressions, STREAM_TASKS, FAR_MS)
    delay_s = (labels.emitted_ms - impressions["timestamp_ms"][labels.impression]) / 1000
    for column, task in enumerate(STREAM_TASKS):
        of_task = labels.mask[:, column] > 0
        window_s = task_window_s.get(task.name, 200)
        assert (delay_s[of_task] == window_s).all()
        assert not labels.label[~of_task, column].any()
        alone = FastWindow(window_s).label(events, impressions, (task,), FAR_MS)
        assert labels.impression[of_task].tolist() == alone.impression.tolist()
        assert labels.label[of_task, column].tolist() == alone.label[:, 0].tolist()


def test_windows_of_tasks_are_checked():
    with pytest.raises(ValueError, match=r"ctr must be a number of seconds, at least \.001, got -1"):
        FastWindow(300, {"ctr": -1})
    with pytest.raises(ValueError, match=r"window_s must be a number of seconds, at least \.001, got inf"):
        FastWindow(math.inf)
    with pytest.raises(ValueError, match="task_window_s names clicks, the tasks are ctr, "):
        FastWindow(300, {"clicks": 30}).label(log(), _impressions((1, 7, 1)), LIVE_SCHEMA.tasks, FAR)
    with pytest.raises(ValueError, match="task 'lvtr' needs 60 s, the fast window has 30 s"):
        FastWindow(300, {"lvtr": 30}).label(log(), _impressions((1, 7, 1)), LIVE_SCHEMA.tasks, FAR)


@pytest.mark.parametrize("task_window_s", [{}, {"ctr": 30, "evtr": 30, "gtr": 250}])
def test_many_watermarks_give_what_one_gives(task_window_s):
    check_law_of_streams(FastWindow(200, task_window_s), 250 if task_window_s else 200)


def test_nothing_in_nothing_out():
    nothing = {name: values[:0] for name, values in _impressions((1, 7, 1)).items()}
    assert FastWindow().label(log(), nothing, LIVE_SCHEMA.tasks, FAR).label.shape == (0, len(TASKS))
    assert FastWindow().label(log(), _impressions((1, 7, 1)), (), FAR).label.shape == (1, 0)
    assert _positive(FastWindow().label(log(), _impressions((1, 7, 1)), LIVE_SCHEMA.tasks, FAR), 0) == set()


def test_labels_of_one_impression_and_time_share_a_row():
    never = NEVER_MS
    positive = np.array([[5, never, 9], [never, never, never], [20, 7, never]])
    negative = np.array([[never, 5, never], [never, never, never], [never, never, 30]])
    labels = labels_at(positive, negative, 20)
    assert labels.impression.tolist() == [0, 0, 2, 2]
    assert labels.emitted_ms.tolist() == [5, 9, 7, 20]
    assert labels.mask.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert labels.label.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert (labels.weight == 1).all()
    assert labels.label.dtype == labels.mask.dtype == labels.weight.dtype == np.float32


def test_ids_over_too_long_a_time_are_an_error():
    impressions = _impressions((1, 7, 1), (2, 7, 1), (3, 7, 1))
    impressions["timestamp_ms"] = np.array([0, 1, 2**62])
    with pytest.raises(ValueError, match=r"3 pairs of user and room over .* ms do not fit one shard"):
        FastWindow().label(log(), impressions, LIVE_SCHEMA.tasks, FAR)
