import bisect

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from beam_transforms.histories import NEVER_MS, changed_keys, history_record, history_windows
from beam_transforms.schema import MEMORY_MS, NEVER_S, ROOM_MEMORY_MS, WINDOW_MS, EventKind, HistoryCounts
from beam_transforms.stored_history import with_ages
from tests.beam_transforms.event_logs import NOON_MS, event_rows, log

KINDS = (EventKind.LIKE, EventKind.ENTER)
USER = HistoryCounts("user", ("user_id",), KINDS, (60, 600), (EventKind.GIFT,))
USER_ROOM = HistoryCounts("user_room", ("user_id", "live_id"), KINDS, (300,), (EventKind.GIFT,))


def _by_hand(history, rows, ids, as_of_ms):
    """The feature vector of one key, straight from the events."""
    column = {"user_id": 2, "live_id": 4}
    times = [(NOON_MS + round(row[1] * 1000), row) for row in rows]
    own = [
        (time, row)
        for time, row in times
        if time < as_of_ms
        and row[0] in (*history.kinds, *history.sums)
        and all(row[column[name]] == ids[name] for name in history.key)
    ]
    ends = sorted({time // WINDOW_MS * WINDOW_MS + WINDOW_MS - 1 for time, _ in own})
    since = next(
        (
            late
            for early, late in zip(reversed([-(10**18), *ends]), reversed([*ends, as_of_ms]), strict=True)
            if late - early > history.memory_ms
        ),
        None,
    )
    own = [] if since == as_of_ms else [(t, row) for t, row in own if t >= since // WINDOW_MS * WINDOW_MS]
    vector = []
    for kind in history.kinds:
        seen = sorted(time for time, row in own if row[0] == kind)
        vector.append(len(seen))
        vector += [len(seen) - bisect.bisect_left(seen, as_of_ms - 1000 * s) for s in history.lookbacks_s]
        vector.append(min((as_of_ms - seen[-1]) / 1000, NEVER_S) if seen else NEVER_S)
    return [*vector, *(sum(row[5] for _, row in own if row[0] == kind) for kind in history.sums)]


@pytest.mark.parametrize("history", [USER, USER_ROOM], ids=lambda history: history.name)
@settings(max_examples=15, deadline=None)
@given(rows=event_rows((*KINDS, EventKind.GIFT)), jump=st.sampled_from([0, 10, 359, 360, 361, 86_399, 86_400, 86_401]))
def test_a_record_that_is_rewritten_only_when_it_changed_tells_every_later_time(history, rows, jump):
    """Records go stale by nothing but the clock, and the reader makes up for that."""
    rows = [(kind, second + (jump * WINDOW_MS / 1000) * (second > 600), *rest) for kind, second, *rest in rows]
    events = log(*rows)
    windows = history_windows(history, events)
    asked = [(user, room) for user in (0, 1, 9) for room in (0, 1)]
    first = NOON_MS // WINDOW_MS * WINDOW_MS
    places = (*range(20), *range(20 + jump, 62 + jump), 62 + jump + 360, 62 + jump + 361)
    steps = [first + place * WINDOW_MS for place in places]
    kept, before = {}, first - WINDOW_MS
    for as_of_ms in steps:
        changed = changed_keys(history, windows, before, as_of_ms)
        now = {**changed, "as_of_ms": np.full(len(changed[history.key[0]]), as_of_ms)}
        record = history_record(history, windows, now)
        for row, ids in enumerate(zip(*(changed[name] for name in history.key), strict=True)):
            kept[tuple(map(int, ids))] = {name: values[row : row + 1] for name, values in record.items()}
        before = as_of_ms
    for as_of_ms in (steps[-1], steps[-1] + WINDOW_MS * (ROOM_MEMORY_MS // WINDOW_MS)):
        for user, room in asked:
            ids = {"user_id": user, "live_id": room}
            record = kept.get(tuple(ids[name] for name in history.key))
            found = history.empty if record is None else with_ages(history, record, as_of_ms)[0]
            expected = np.array(_by_hand(history, rows, ids, as_of_ms), dtype=np.float32)
            np.testing.assert_array_equal(found, expected, err_msg=f"{ids} as of {as_of_ms - NOON_MS}")


@pytest.mark.parametrize(("history", "memory_ms"), [(USER, MEMORY_MS), (USER_ROOM, ROOM_MEMORY_MS)])
def test_a_history_is_forgotten_a_millisecond_after_its_memory(history, memory_ms):
    newest = NOON_MS - 1
    last_ms = np.array([[newest, NEVER_MS, newest]] * 2)
    counts = np.full((2, len(history.columns)), 3, dtype=np.float32)
    record = {history.feature_name: counts, history.last_ms_name: last_ms}
    kept, forgotten = with_ages(history, record, newest + memory_ms + np.array([0, 1]))
    assert kept[0] == kept[-1] == 3 and kept[len(history.lookbacks_s) + 1] == memory_ms / 1000
    assert forgotten.tolist() == history.empty.tolist()
    assert counts.min() == 3  # the record itself is left alone


def test_an_event_of_a_window_that_is_still_being_written_has_age_zero():
    record = {USER.feature_name: np.ones((1, len(USER.columns))), USER.last_ms_name: np.full((1, 3), NOON_MS + 5)}
    assert with_ages(USER, record, NOON_MS)[0, 3] == 0
