import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms.columnar import concatenate, take
from beam_transforms.histories import (
    empty_entries,
    empty_history,
    entered_authors,
    entries,
    fold_entries,
    fold_history,
    history_record,
    history_windows,
)
from beam_transforms.schema import MEMORY_MS, NEVER_S, PADDING_ID, ROOM_MEMORY_MS, WINDOW_MS, EventKind, HistoryCounts
from beam_transforms.stored_history import with_ages
from tests.beam_transforms.event_logs import NOON_MS, event_rows, log

KINDS = (EventKind.COMMENT, EventKind.GIFT)
HISTORY = HistoryCounts("user_author", ("user_id", "author_id"), KINDS, (60,), (EventKind.GIFT,))
IN_ROOM = HistoryCounts("user_room", ("user_id", "live_id"), KINDS, (60, 180), (EventKind.GIFT,))


def _queries(*rows, history=HISTORY):
    first, second, seconds = zip(*rows, strict=True)
    as_of_ms = NOON_MS + (np.array(seconds) * 1000).astype(np.int64)
    return {history.key[0]: np.array(first), history.key[1]: np.array(second), "as_of_ms": as_of_ms}


def _counts(history, windows, queries):
    return with_ages(history, history_record(history, windows, queries), queries["as_of_ms"])


def test_counts_of_a_hand_made_history():
    events = log(
        (EventKind.COMMENT, 10, 1, 5, 7, 4),
        (EventKind.COMMENT, 100, 1, 5, 8, 4),
        (EventKind.COMMENT, 100, 2, 5, 8, 4),
        (EventKind.GIFT, 100, 1, 5, 8, 2.5),
        (EventKind.GIFT, 120, 1, 5, 8, 0.5),
    )
    counts = _counts(HISTORY, history_windows(HISTORY, events), _queries((1, 5, 120), (1, 6, 120), (3, 5, 120)))
    assert HISTORY.columns == (
        *("comment_count", "comment_count_60s", "comment_age_s", "gift_count", "gift_count_60s", "gift_age_s"),
        "gift_sum",
    )
    assert counts[0].tolist() == [2, 1, 20, 1, 1, 20, 2.5]  # the gift at the very time of the query isn't seen
    assert counts[1].tolist() == counts[2].tolist() == HISTORY.empty.tolist() == [0, 0, NEVER_S, 0, 0, NEVER_S, 0]


def test_what_was_before_a_long_silence_is_forgotten():
    gap_s = ROOM_MEMORY_MS // 1000
    events = log((EventKind.COMMENT, 1, 1, 0, 7, 1), (EventKind.COMMENT, gap_s + 40, 1, 0, 7, 1))
    windows = history_windows(IN_ROOM, events)
    asked = ((1, 7, gap_s), (1, 7, gap_s + 30), (1, 7, gap_s + 60))
    counts = _counts(IN_ROOM, windows, _queries(*asked, history=IN_ROOM))
    assert counts[:, 0].tolist() == [1, 0, 1]
    assert counts[1].tolist() == IN_ROOM.empty.tolist()
    assert HISTORY.memory_ms == MEMORY_MS and IN_ROOM.memory_ms == ROOM_MEMORY_MS


@settings(max_examples=50, deadline=None)
@given(event_rows())
def test_counts_equal_counting_by_hand(rows):
    asked = [(user, author, second) for user in (0, 1, 9) for author in (0, 1) for second in (0.0, 300.0, 1320.0)]
    counts = _counts(HISTORY, history_windows(HISTORY, log(*rows)), _queries(*asked))
    for row, (user, author, second) in enumerate(asked):
        expected = []
        for kind in KINDS:
            ages = [second - r[1] for r in rows if (r[0], r[2], r[3]) == (kind, user, author) and r[1] < second]
            expected += [len(ages), sum(age <= 60 for age in ages), min(ages, default=NEVER_S)]
        gifts = [r[5] for r in rows if (r[0], r[2], r[3]) == (EventKind.GIFT, user, author) and r[1] < second]
        assert counts[row].tolist() == [*expected, sum(gifts)]


@settings(max_examples=50, deadline=None)
@given(rows=event_rows(), cuts=st.lists(st.integers(0, 60), max_size=3), later=st.integers(0, 500))
def test_folding_at_any_time_changes_nothing(rows, cuts, later):
    events = log(*rows)
    cuts = sorted(NOON_MS + cut * WINDOW_MS for cut in cuts)
    asked_s = (max([*cuts, NOON_MS]) - NOON_MS) // 1000 + later * 30
    for history in (HISTORY, IN_ROOM):
        queries = _queries(*((user, other, asked_s) for user in range(4) for other in range(4)), history=history)
        windows = history_windows(history, events)
        state = empty_history(history)
        rest = windows
        for cut in cuts:
            state = fold_history(history, state, rest, cut)
            rest = take(rest, rest["timestamp_ms"] >= cut)
        expected = history_record(history, windows, queries)
        for name, values in history_record(history, concatenate([state, rest]), queries).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
    entered, rest = entries(events), entries(events)
    state = empty_entries()
    for cut in cuts:
        state = fold_entries(state, rest, 3, cut)
        rest = take(rest, rest["timestamp_ms"] >= cut)
    queries = {"user_id": np.arange(4), "as_of_ms": np.full(4, NOON_MS + asked_s * 1000)}
    expected = entered_authors(empty_entries(), entered, queries, 3)
    np.testing.assert_array_equal(entered_authors(state, rest, queries, 3), expected)


def test_sums_do_not_depend_on_the_order_of_adding():
    values = np.random.default_rng(0).exponential(30, 1000).astype(np.float32)
    rows = [(EventKind.GIFT, 10, 1, 5, 8, float(value)) for value in values]
    queries = _queries((1, 5, 60))
    forward = history_record(HISTORY, history_windows(HISTORY, log(*rows)), queries)
    parts = [history_windows(HISTORY, log(*rows[begin::7])) for begin in range(7)]
    backward = history_record(HISTORY, concatenate(parts[::-1]), queries)
    np.testing.assert_array_equal(forward["user_author_counts"], backward["user_author_counts"])
    np.testing.assert_allclose(forward["user_author_counts"][0, -1], values.sum(dtype=np.float64), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(event_rows())
def test_entered_authors_are_the_last_ones_before_the_query(rows):
    queries = {"user_id": np.array([0, 9]), "as_of_ms": np.full(2, NOON_MS + 600_000)}
    entered = sorted((r[1], r[3], r[4]) for r in rows if r[0] == EventKind.ENTER and r[2] == 0)
    authors = [author for second, author, _ in entered if second < 600][-4:]
    found = entered_authors(empty_entries(), entries(log(*rows)), queries, length=4)
    assert found[0].tolist() == [PADDING_ID] * (4 - len(authors)) + authors
    assert found[1].tolist() == [PADDING_ID] * 4
