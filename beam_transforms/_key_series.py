"""Rows in the order of (key, time), cut where the memory ends: what the sequence features have in common."""

from collections.abc import Sequence

import numpy as np

from beam_transforms.columnar import Columns, take


def row_order(key: np.ndarray, timestamp_ms: np.ndarray, content: Sequence[np.ndarray]) -> np.ndarray:
    """Row numbers in the order of (key, timestamp, *content); all int64 of shape (rows,).

    Key, time and row number are packed into one integer where they fit, and that is sorted by value: some five times
    as fast as sorting by several columns. The content is looked at only where key and time are equal.
    """
    rows = len(key)
    if not rows:
        return np.zeros(0, dtype=np.int64)
    first, newest = int(timestamp_ms.min()), int(timestamp_ms.max())
    width = newest - first + 1
    lowest, keys = int(key.min()), int(key.max()) - int(key.min()) + 1
    bits = rows.bit_length()
    if (keys * width) << bits < 2**63:
        packed = (((key - lowest) * width + (timestamp_ms - first)) << bits) | np.arange(rows)
        packed.sort()
        order = packed & ((1 << bits) - 1)
        place = packed >> bits
    else:
        values, code = np.unique(key, return_inverse=True)
        if len(values) * width >= 2**63:
            raise ValueError(f"{len(values)} keys over {width} ms do not fit one shard; check the timestamps")
        place = code * width + (timestamp_ms - first)
        order = np.argsort(place, kind="stable")
        place = place[order]
    equal = place[1:] == place[:-1]
    if equal.any():
        tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
        among = order[tied]
        order[tied] = among[np.lexsort([*(values[among] for values in reversed(content)), place[tied]])]
    return order


class KeySeries:
    """The rows of each key in the order of time, each row once.

    Args:
        columns: Columns of equal length, with `timestamp_ms`, the key and the content; those of a state first.
        settled: How many rows, the first ones, are a state's. They follow each other without a gap, as what lay before
            one isn't kept; their own times needn't show that, where a row stands for a time and not for a moment.
        key: Name of the key column.
        content: Names of the columns that order rows of equal key and time.
        same: Names of the columns whose equality makes two rows of equal key and time one row, the first of them.
        memory_ms: What lies before a gap longer than this is forgotten.

    Attributes:
        columns: The columns in this order.
        starts: bool (rows,), whether nothing before this row is remembered with it.
    """

    def __init__(
        self,
        columns: Columns,
        settled: int,
        key: str,
        content: Sequence[str],
        same: Sequence[str],
        memory_ms: int,
    ) -> None:
        self._key, self._memory_ms = key, memory_ms
        order = row_order(columns[key], columns["timestamp_ms"], [columns[name] for name in content])
        columns = take(columns, order)
        new_key = np.append(True, columns[key][1:] != columns[key][:-1])[: len(order)]
        gap_ms = np.diff(columns["timestamp_ms"], prepend=0)
        again = ~new_key & (gap_ms == 0) & (order >= settled)
        if again.any():
            for name in same:
                again[1:] &= columns[name][1:] == columns[name][:-1]
            keep = np.flatnonzero(~again)
            order, columns, new_key = order[keep], take(columns, keep), new_key[keep]
            gap_ms = np.diff(columns["timestamp_ms"], prepend=0)
        self.columns = columns
        self._firsts = np.flatnonzero(new_key)
        self.starts = new_key | ((gap_ms > memory_ms) & (order >= settled))

    def span(self, queries: Columns) -> tuple[np.ndarray, np.ndarray]:
        """For each query, its key's remembered rows with a timestamp < `as_of_ms`, as positions [start, end)."""
        as_of_ms, key, times = queries["as_of_ms"], self.columns[self._key], self.columns["timestamp_ms"]
        if not len(times):
            return np.zeros(len(as_of_ms), dtype=np.int64), np.zeros(len(as_of_ms), dtype=np.int64)
        keys = key[self._firsts]
        number = np.minimum(np.searchsorted(keys, queries[self._key]), len(keys) - 1)
        width = int(times.max()) - int(times.min()) + 2
        lengths = np.diff(np.append(self._firsts, len(times)))
        places = np.repeat(np.arange(len(keys)) * width, lengths) + (times - times.min())
        end = np.searchsorted(places, number * width + np.clip(as_of_ms - times.min(), 0, width - 1))
        last = np.maximum(end - 1, 0)
        start = np.maximum.accumulate(np.where(self.starts, np.arange(len(times)), 0))[last]
        seen = (keys[number] == queries[self._key]) & (end > self._firsts[number])
        seen &= as_of_ms - times[last] <= self._memory_ms
        return np.where(seen, start, end), end


def last_of_each(
    key: np.ndarray, starts: np.ndarray, timestamp_ms: np.ndarray, until_ms: int, memory_ms: int, length: int
):
    """Rows that a state keeps: of each key the last `length` after its last start, none after too long a silence.

    Args:
        key, starts, timestamp_ms: Of shape (rows,), in the order of (key, time).
    """
    rows = np.arange(len(key))
    first = np.append(True, key[1:] != key[:-1])[: len(key)]
    last = np.flatnonzero(np.append(first[1:], True)[: len(key)])
    number = np.cumsum(first) - 1
    since = np.maximum.accumulate(np.where(starts, rows, 0)) if len(rows) else rows
    since = np.maximum(since[last], last - (length - 1))
    kept = (rows >= since[number]) & (until_ms - timestamp_ms[last][number] <= memory_ms)
    return np.flatnonzero(kept)
