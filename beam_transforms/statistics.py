"""30-second windows of a room's metrics, and the sequence of the last windows as of a time (LiveForesighter, 2.2)."""

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import Columns, hash_rows, take, to_batch, to_columns
from beam_transforms.events import EVENT_ARROW_SCHEMA
from beam_transforms.schema import WINDOW_MS, Aggregate, EventKind, Metric
from beam_transforms.sharding import ShardBy


def window_statistics(events: Columns, metrics: tuple[Metric, ...], period_ms: int = WINDOW_MS) -> Columns:
    """Counts the events of each room and window; windows are aligned to the epoch and hold [begin, end).

    Windows without any event have no row: their counts are zero and the users present are those of the row before.

    Args:
        events: Columns of `schema.EVENT_COLUMNS` in any order; all events of the rooms in it.

    Returns:
        `live_id` and `window_end_ms` (int64, W rows in this order) and `statistics` (float32, shape (W, N)).
    """
    window = events["timestamp_ms"] // period_ms
    order = np.lexsort([window, events["live_id"]])
    live_id, window = events["live_id"][order], window[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (live_id[1:] != live_id[:-1]) | (window[1:] != window[:-1])
    row = np.empty(len(order), dtype=np.int64)
    row[order] = np.cumsum(fresh) - 1
    live_id, window = live_id[fresh], window[fresh]
    statistics = np.zeros((len(live_id), len(metrics)), dtype=np.float64)
    for column, metric in enumerate(metrics):
        chosen = events["kind"] == metric.kind
        rows = row[chosen]
        if metric.aggregate is Aggregate.PRESENT:
            left = row[events["kind"] == EventKind.LEAVE]
            change = np.bincount(rows, minlength=len(live_id)) - np.bincount(left, minlength=len(live_id))
            statistics[:, column] = _running_total(change, live_id)
            continue
        weights = None
        if metric.aggregate is Aggregate.SUM:
            weights = events["value"][chosen].astype(np.float64)
        elif metric.aggregate in (Aggregate.USERS, Aggregate.NEW_USERS):
            rows = _first_by_user(events, chosen, row, by_room=metric.aggregate is Aggregate.NEW_USERS)
        statistics[:, column] = np.bincount(rows, weights=weights, minlength=len(live_id))
    return {
        "live_id": live_id,
        "window_end_ms": (window + 1) * period_ms,
        "statistics": statistics.astype(np.float32),
    }


def statistic_sequences(
    windows: Columns, queries: Columns, metrics: tuple[Metric, ...], length: int, period_ms: int = WINDOW_MS
) -> tuple[np.ndarray, np.ndarray]:
    """The last `length` windows of a room that had ended (end <= t) when each query was made, oldest first.

    Args:
        windows: What `window_statistics` returns for the rooms asked for.
        queries: `live_id` and `timestamp_ms`, each of shape (B,).

    Returns:
        The sequence, float32 of shape (B, T, N), and its mask, float32 of shape (B, T): 0 before the room's first
        window (padding stands in front), where the sequence is 0 too.
    """
    last = queries["timestamp_ms"] // period_ms - 1
    rooms, first_row = np.unique(windows["live_id"], return_index=True)
    count = len(metrics)
    if not len(rooms) or not len(last):
        return np.zeros((len(last), length, count), np.float32), np.zeros((len(last), length), np.float32)
    window = windows["window_end_ms"] // period_ms - 1
    oldest, newest = int(min(window.min(), last.min() - length)), int(max(window.max(), last.max()))
    width = newest - oldest + 2
    room = np.searchsorted(rooms, queries["live_id"])
    known = (room < len(rooms)) & (rooms[np.minimum(room, len(rooms) - 1)] == queries["live_id"])
    room = np.where(known, room, 0)
    places = np.searchsorted(rooms, windows["live_id"]) * width + (window - oldest)

    # Many impressions ask for the same room and window: each is looked up once.
    asked, inverse = np.unique(room * width + (last - oldest), return_inverse=True)
    room, last = asked // width, asked % width + oldest
    steps = last[:, None] - np.arange(length - 1, -1, -1)
    step_places = room[:, None] * width + (steps - oldest)
    row = np.searchsorted(places, step_places, side="right") - 1
    started = steps >= window[first_row][room][:, None]
    exact = started & (places[np.maximum(row, 0)] == step_places)
    level = np.array([metric.aggregate is Aggregate.PRESENT for metric in metrics])
    shown = np.where(level, started[..., None], exact[..., None])
    sequence = np.where(shown, windows["statistics"][np.maximum(row, 0)], np.float32(0))
    mask = started.astype(np.float32)
    return sequence[inverse] * known[:, None, None], mask[inverse] * known[:, None]


class WindowStatistics(beam.PTransform):
    """Batches of events -> batches of windows (`live_id`, `window_end_ms`, `statistics` of shape (N,)).

    Bounded input: a window is emitted once, complete, whatever the order of the events. Events that are equal in every
    column count once if `deduplicate` is set.

    Args:
        metrics: The columns of the statistics, N of them.
        period_ms: Length of a window in milliseconds.
        deduplicate: Whether equal events are one event.
        shards: Number of groups of rooms that can be worked on in parallel.

    Raises:
        ValueError: If there is no metric, or the period or the number of shards isn't positive.
    """

    def __init__(
        self, metrics: tuple[Metric, ...], period_ms: int = WINDOW_MS, deduplicate: bool = True, shards: int = 16
    ) -> None:
        super().__init__()
        if not metrics:
            raise ValueError("WindowStatistics needs at least one metric, got none")
        if period_ms <= 0:
            raise ValueError(f"period_ms must be positive, got {period_ms}")
        self._metrics, self._period_ms, self._deduplicate, self._shards = metrics, period_ms, deduplicate, shards

    def expand(self, events: beam.PCollection) -> beam.PCollection:
        return (
            events
            | ShardBy("live_id", self._shards)
            | beam.GroupByKey()
            | beam.MapTuple(self._windows).with_output_types(pa.RecordBatch)
        )

    def _windows(self, _shard: int, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        events = event_columns(batches, self._deduplicate)
        return to_batch(window_statistics(events, self._metrics, self._period_ms))


def event_columns(batches: list[pa.RecordBatch], deduplicate: bool) -> Columns:
    """Columns of all batches together, in an order that depends on nothing but the events: by time, then by content.

    Args:
        deduplicate: Whether to keep only the first of events that are equal in every column.
    """
    events = to_columns(list(batches) or [pa.RecordBatch.from_pylist([], schema=EVENT_ARROW_SCHEMA)])
    bits = [values.view(f"u{values.dtype.itemsize}") for values in events.values()]
    events = take(events, np.lexsort([hash_rows(bits), events["timestamp_ms"]]))
    if not deduplicate or not len(events["kind"]):
        return events
    fresh = np.ones(len(events["kind"]), dtype=bool)
    fresh[1:] = np.any([values[1:] != values[:-1] for values in events.values()], axis=0)
    return take(events, np.flatnonzero(fresh))


def _running_total(change: np.ndarray, live_id: np.ndarray) -> np.ndarray:
    """Cumulative sum that starts again with each room; never below zero (an exit whose entry isn't in the log)."""
    total = np.cumsum(change)
    fresh = np.ones(len(live_id), dtype=bool)
    fresh[1:] = live_id[1:] != live_id[:-1]
    before = np.zeros(len(change), dtype=total.dtype)
    before[fresh] = np.diff(total[fresh] - change[fresh], prepend=0)
    return np.maximum(total - np.cumsum(before), 0)


def _first_by_user(events: Columns, chosen: np.ndarray, row: np.ndarray, by_room: bool) -> np.ndarray:
    """Rows of the first chosen event of each user in each window, or in the whole room."""
    user, rows, when = events["user_id"][chosen], row[chosen], events["timestamp_ms"][chosen]
    group = events["live_id"][chosen] if by_room else rows
    order = np.lexsort([when, user, group])
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (group[order][1:] != group[order][:-1]) | (user[order][1:] != user[order][:-1])
    return rows[order][fresh]
