"""Impressions, timelines and the law of streams, for the tests of the label policies."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from beam_transforms.columnar import Columns, take
from beam_transforms.labels import LabelPolicy, Labels
from beam_transforms.schema import EventKind, Task
from tests.beam_transforms.event_logs import NOON_MS, log

FAR_MS = NOON_MS + 100_000_000

STREAM_TASKS = (
    Task("ctr", EventKind.ENTER, "entered"),
    Task("evtr", EventKind.LEAVE, "watched 10 seconds", watch_s=10),
    Task("lvtr", EventKind.LEAVE, "watched 60 seconds", watch_s=60),
    Task("ltr", EventKind.LIKE, "liked"),
    Task("cmtr", EventKind.COMMENT, "commented within 45 seconds", within_s=45),
    Task("gtr", EventKind.GIFT, "sent a gift"),
)


_SPAN = 1200
"""Half seconds over which events and impressions are drawn; no pair, room or moment is rare among them."""

VISIT_ROWS = st.lists(
    st.builds(
        lambda kind, half, user, room: (kind, half / 2, user, 0, room, 1.0),
        st.sampled_from([EventKind.ENTER, EventKind.LEAVE, EventKind.LIKE, EventKind.COMMENT, EventKind.GIFT]),
        st.integers(0, _SPAN),
        st.integers(0, 1),
        st.integers(0, 1),
    ),
    max_size=60,
)
"""Rows of `event_logs.log`."""

SHOWN_ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, _SPAN)), min_size=1, max_size=20)
"""Rows of (user_id, live_id, half seconds), as `shown_at_half_seconds` takes them."""


def shown_at_half_seconds(rows: list[tuple[int, int, int]]) -> Columns:
    return shown(*sorted({(user, room, second / 2) for user, room, second in rows}))


def shown(*rows: tuple[int, int, float]) -> Columns:
    """Impressions from rows of (user_id, live_id, seconds after NOON_MS)."""
    user, room, seconds = zip(*rows, strict=True) if rows else ((), (), ())
    times = NOON_MS + np.round(np.array(seconds, dtype=np.float64) * 1000).astype(np.int64)
    return {
        "user_id": np.array(user, dtype=np.int64),
        "live_id": np.array(room, dtype=np.int64),
        "timestamp_ms": times,
    }


def timeline(*rows: tuple[EventKind, float], user: int = 1, room: int = 7) -> Columns:
    """Events of one user in one room, from rows of (kind, seconds after NOON_MS)."""
    return log(*((kind, second, user, 0, room, 1.0) for kind, second in rows))


def emitted(labels: Labels, tasks: tuple[Task, ...]) -> list[tuple]:
    """(row of the impression, seconds after NOON_MS, {task: label}) of each row with weight 1, in the order of time.

    Only tasks with mask 1 are in the dict; a row of another weight has that as a fourth entry.
    """
    rows = []
    for row in range(len(labels.impression)):
        known = {task.name: int(labels.label[row, k]) for k, task in enumerate(tasks) if labels.mask[row, k]}
        weights = {float(labels.weight[row, k]) for k in range(len(tasks)) if labels.mask[row, k]}
        assert len(weights) == 1
        entry = (int(labels.impression[row]), (int(labels.emitted_ms[row]) - NOON_MS) / 1000, known)
        rows.append(entry if weights == {1.0} else (*entry, weights.pop()))
    return sorted(rows, key=lambda entry: (entry[1], entry[0], -entry[3] if len(entry) == 4 else -1))


def _rows(labels: Labels, impressions: Columns) -> list[tuple]:
    keys = [impressions[name][labels.impression] for name in ("user_id", "live_id", "timestamp_ms")]
    columns = [*keys, labels.emitted_ms]
    parts = (labels.label, labels.mask, labels.weight)
    return sorted(
        (*(int(values[row]) for values in columns), *(tuple(part[row].tolist()) for part in parts))
        for row in range(len(labels.impression))
    )


def check_law_of_streams(policy: LabelPolicy, horizon_s: float) -> None:
    """Labels of many growing watermarks, on kept rows only, are those of one call; each pair is labelled sensibly.

    The policy's horizon must be short against the 10 minutes of the events, so that rows are in fact forgotten.
    """
    assert policy.horizon_ms == horizon_s * 1000

    @settings(max_examples=150, deadline=None)
    @given(
        VISIT_ROWS,
        SHOWN_ROWS,
        st.lists(st.integers(0, 900_000), min_size=1, max_size=8, unique=True),
        st.randoms(use_true_random=False),
    )
    def check(rows, impression_rows, watermarks, random):
        events = log(*rows)
        impressions = shown_at_half_seconds(impression_rows)
        shuffled = list(range(len(events["kind"])))
        random.shuffle(shuffled)
        watermarks = [NOON_MS + ms for ms in sorted(watermarks)]
        streamed, before = [], -(2**62)
        for watermark in watermarks:
            kept = take(
                impressions,
                np.flatnonzero(
                    (impressions["timestamp_ms"] < watermark)
                    & (impressions["timestamp_ms"] >= before - policy.horizon_ms)
                ),
            )
            oldest = kept["timestamp_ms"].min(initial=watermark) - policy.lookback_ms
            present = (events["timestamp_ms"] < watermark) & (events["timestamp_ms"] >= oldest)
            labels = policy.label(take(events, np.flatnonzero(present)), kept, STREAM_TASKS, watermark)
            assert (labels.emitted_ms <= watermark).all()
            chosen = np.flatnonzero(labels.emitted_ms > before)
            new = Labels(*(getattr(labels, name)[chosen] for name in Labels.__dataclass_fields__))
            streamed += _rows(new, kept)
            before = watermark
        whole = policy.label(
            take(events, np.array(shuffled, dtype=np.int64)), impressions, STREAM_TASKS, watermarks[-1]
        )
        assert sorted(streamed) == _rows(whole, impressions)
        _check_consistent(whole, impressions, policy)

    check()


def _check_consistent(labels: Labels, impressions: Columns, policy: LabelPolicy) -> None:
    """Weighted labels of a pair add up to one label: never a positive twice, a correction only of what came before."""
    assert np.isin(labels.label, (0, 1)).all() and np.isin(labels.mask, (0, 1)).all()
    assert labels.mask.any(axis=1).all()
    assert (labels.emitted_ms <= impressions["timestamp_ms"][labels.impression] + policy.horizon_ms).all()
    assert (labels.emitted_ms > impressions["timestamp_ms"][labels.impression]).all()
    shape = (len(impressions["user_id"]), labels.label.shape[1])
    positive, negative = np.zeros(shape), np.zeros(shape)
    counted = labels.mask * labels.weight
    np.add.at(positive, labels.impression, counted * labels.label)
    np.add.at(negative, labels.impression, counted * (1 - labels.label))
    assert np.isin(positive, (0, 1)).all() and np.isin(negative, (0, 1)).all()
    assert (positive + negative <= 1).all()
