"""What happened before an impression: counts under a key, and the authors that a user entered last."""

import numpy as np

from beam_transforms.columnar import Columns, Timeline
from beam_transforms.schema import NEVER_S, PADDING_ID, EventKind, HistoryCounts


def history_counts(events: Columns, queries: Columns, history: HistoryCounts) -> np.ndarray:
    """One family of counts as of each query: only events with a timestamp < the query's are seen.

    Args:
        events: Columns of `schema.EVENT_COLUMNS`, any order, all events of the keys asked for.
        queries: The columns of `history.key` and `timestamp_ms`, each of shape (B,).

    Returns:
        float32 of shape (B, len(history.columns)).
    """
    now = queries["timestamp_ms"]
    columns = []
    for kind in history.kinds:
        timeline, _ = _timeline(events, queries, history.key, kind)
        end = timeline.before(now)
        columns.append(end - timeline.start)
        for seconds in history.lookbacks_s:
            columns.append(end - timeline.before(now - seconds * 1000))
        columns.append(_age_s(timeline, end, now))
    for kind in history.sums:
        timeline, values = _timeline(events, queries, history.key, kind)
        total = np.concatenate([[0.0], np.cumsum(values[timeline.order], dtype=np.float64)])
        columns.append(total[timeline.before(now)] - total[timeline.start])
    return np.stack(columns, axis=1).astype(np.float32)


def entered_authors(events: Columns, queries: Columns, length: int) -> np.ndarray:
    """Authors of the rooms that the user entered before each query, oldest first, `PADDING_ID` in front.

    Returns:
        int64 of shape (B, length).
    """
    timeline, _ = _timeline(events, queries, ("user_id",), EventKind.ENTER)
    authors = events["author_id"][events["kind"] == EventKind.ENTER][timeline.order]
    end = timeline.before(queries["timestamp_ms"])
    places = end[:, None] - np.arange(length, 0, -1)
    known = places >= timeline.start[:, None]
    if not len(authors):
        return np.full(places.shape, PADDING_ID, dtype=np.int64)
    return np.where(known, authors[np.where(known, places, 0)], PADDING_ID)


def _timeline(events: Columns, queries: Columns, key: tuple[str, ...], kind: EventKind) -> tuple[Timeline, np.ndarray]:
    chosen = events["kind"] == kind
    keys = [events[name][chosen] for name in key]
    timeline = Timeline(keys, events["timestamp_ms"][chosen], [queries[name] for name in key])
    return timeline, events["value"][chosen]


def _age_s(timeline: Timeline, end: np.ndarray, now: np.ndarray) -> np.ndarray:
    if not len(timeline.timestamps):
        return np.full(len(now), NEVER_S)
    seen = end > timeline.start
    age_s = (now - timeline.timestamps[np.maximum(end - 1, 0)]) / 1000.0
    return np.where(seen, np.minimum(age_s, NEVER_S), NEVER_S)
