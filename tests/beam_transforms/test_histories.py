import numpy as np
from hypothesis import given, settings

from beam_transforms.histories import entered_authors, history_counts
from beam_transforms.schema import NEVER_S, PADDING_ID, EventKind, HistoryCounts
from tests.beam_transforms.event_logs import NOON_MS, event_rows, log

KINDS = (EventKind.COMMENT, EventKind.GIFT)
HISTORY = HistoryCounts("user_author", ("user_id", "author_id"), KINDS, (60,), (EventKind.GIFT,))


def _queries(*rows):
    user, author, seconds = zip(*rows, strict=True)
    return {
        "user_id": np.array(user),
        "author_id": np.array(author),
        "timestamp_ms": NOON_MS + (np.array(seconds) * 1000).astype(np.int64),
    }


def test_counts_of_a_hand_made_history():
    events = log(
        (EventKind.COMMENT, 10, 1, 5, 7, 4),
        (EventKind.COMMENT, 100, 1, 5, 8, 4),
        (EventKind.COMMENT, 100, 2, 5, 8, 4),
        (EventKind.GIFT, 100, 1, 5, 8, 2.5),
        (EventKind.GIFT, 110, 1, 5, 8, 0.5),
    )
    counts = history_counts(events, _queries((1, 5, 110), (1, 6, 110), (3, 5, 110)), HISTORY)
    assert HISTORY.columns == (
        *("comment_count", "comment_count_60s", "comment_age_s", "gift_count", "gift_count_60s", "gift_age_s"),
        "gift_sum",
    )
    assert counts[0].tolist() == [2, 1, 10, 1, 1, 10, 2.5]  # the gift at the very time of the query isn't seen
    assert counts[1].tolist() == counts[2].tolist() == HISTORY.empty.tolist() == [0, 0, NEVER_S, 0, 0, NEVER_S, 0]


@settings(max_examples=50, deadline=None)
@given(event_rows())
def test_counts_equal_counting_by_hand(rows):
    events = log(*rows)
    asked = [(user, author, second) for user in (0, 1, 9) for author in (0, 1) for second in (0.0, 300.0, 1300.0)]
    queries = _queries(*asked)
    counts = history_counts(events, queries, HISTORY)
    for row, (user, author, second) in enumerate(asked):
        expected = []
        for kind in KINDS:
            ages = [second - r[1] for r in rows if (r[0], r[2], r[3]) == (kind, user, author) and r[1] < second]
            expected += [len(ages), sum(age <= 60 for age in ages), min(ages, default=NEVER_S)]
        gifts = [r[5] for r in rows if (r[0], r[2], r[3]) == (EventKind.GIFT, user, author) and r[1] < second]
        assert counts[row].tolist() == [*expected, sum(gifts)]


@settings(max_examples=50, deadline=None)
@given(event_rows())
def test_entered_authors_are_the_last_ones_before_the_query(rows):
    events = log(*rows)
    queries = _queries((0, 0, 600.0), (9, 0, 600.0))
    entered = sorted((r[1], position) for position, r in enumerate(rows) if r[0] == EventKind.ENTER and r[2] == 0)
    authors = [rows[position][3] for second, position in entered if second < 600][-4:]
    found = entered_authors(events, queries, length=4)
    assert found[0].tolist() == [PADDING_ID] * (4 - len(authors)) + authors
    assert found[1].tolist() == [PADDING_ID] * 4
