"""Columns of a batch of events as numpy arrays: sharding, duplicates and look-ups as of a time.

The transforms work on whole batches: one element of a PCollection is a RecordBatch, and the work inside is numpy. An
element an event costs about a hundred times as much.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from beam_transforms._row_order import dense_codes, first_of_equal, small_order, stable_order

Columns = dict[str, np.ndarray]


def to_columns(batches: Sequence[pa.RecordBatch]) -> Columns:
    """Concatenates batches of one schema; a fixed-size list column of width W becomes an array of shape (rows, W)."""
    if not batches:
        return {}
    if len(batches) > 1:
        return concatenate([to_columns([batch]) for batch in batches])
    columns = {}
    for field, array in zip(batches[0].schema, batches[0].columns, strict=True):
        if pa.types.is_fixed_size_list(field.type):
            values = array.flatten().to_numpy(zero_copy_only=False)
            columns[field.name] = values.reshape(len(array), field.type.list_size)
        else:
            columns[field.name] = array.to_numpy(zero_copy_only=False)
    return columns


def to_batch(columns: Columns) -> pa.RecordBatch:
    """The inverse of `to_columns`: arrays of shape (rows,) or (rows, W); of more dimensions become (rows, W), too."""
    arrays = []
    for values in columns.values():
        if values.ndim == 1:
            arrays.append(pa.array(values))
        else:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:]))))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def take(columns: Columns, rows: np.ndarray) -> Columns:
    """The rows with these numbers, or those where a bool array says so; the columns themselves where it says all."""
    if rows.dtype == bool and rows.all():
        return dict(columns)
    return {name: values[rows] for name, values in columns.items()}


def mix(values: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each integer (the finaliser of SplitMix64): equal on every machine and in every process."""
    bits = np.asarray(values).astype(np.uint64)
    bits += np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


def hash_rows(columns: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """A 64-bit hash of each row over several integer columns."""
    state = np.full(len(columns[0]), seed, dtype=np.uint64)
    for values in columns:
        state = mix(state ^ mix(values))
    return state


def split_by_shard(batch: pa.RecordBatch, shard: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts a batch, without nulls, into one batch a shard, keeping the order of rows; numbers of shards are >= 0."""
    if not len(shard):
        return
    counts = np.bincount(shard)
    ordered = take(to_columns([batch]), small_order(shard, len(counts)))
    ends = np.cumsum(counts)
    for number in np.flatnonzero(counts):
        begin, end = ends[number] - counts[number], ends[number]
        yield int(number), to_batch({name: values[begin:end] for name, values in ordered.items()})


def distinct_rows(columns: Columns, names: Sequence[str] | None = None) -> np.ndarray:
    """Row numbers of the first of each set of rows that are equal in the named columns (default: all), ascending.

    Floats are equal if their bits are.
    """
    arrays = [columns[name] for name in (names or columns)]
    arrays = [array.view(f"i{array.itemsize}") if array.dtype.kind == "f" else array for array in arrays]
    return first_of_equal(arrays, _first_of_equal) if len(arrays[0]) else np.zeros(0, dtype=np.int64)


def _first_of_equal(arrays: Sequence[np.ndarray]) -> np.ndarray:
    order = np.argsort(hash_rows(arrays), kind="stable")
    fresh = np.ones(len(order), dtype=bool)
    same = np.ones(len(order) - 1, dtype=bool)
    for values in arrays:
        ordered = values[order]
        same &= ordered[1:] == ordered[:-1]
    fresh[1:] = ~same
    return np.sort(order[fresh])


def match_rows(keys: Sequence[np.ndarray], query_keys: Sequence[np.ndarray]) -> np.ndarray:
    """For each query the row of `keys` that is equal to it.

    Raises:
        ValueError: If a query has no equal row.
    """
    hashes, query_hashes = hash_rows(keys), hash_rows(query_keys)
    order = np.argsort(hashes)
    rows = np.searchsorted(hashes[order], query_hashes)
    rows = order[np.minimum(rows, len(order) - 1)] if len(order) else np.zeros(len(rows), dtype=np.int64)
    missing = np.zeros(len(rows), dtype=bool) if len(order) else np.ones(len(rows), dtype=bool)
    for key, query_key in zip(keys, query_keys, strict=True):
        missing |= key[rows] != query_key if len(order) else missing
    if missing.any():
        first = np.flatnonzero(missing)[0]
        raise ValueError(f"no row for key {tuple(int(key[first]) for key in query_keys)} among {len(order)} rows")
    return rows


class Groups:
    """Rows that are equal in some integer columns, numbered in the order of these columns.

    Attributes:
        group: The group of each row, int64 of shape (rows,).
        count: Number of groups.
        first: The first row of each group, int64 of shape (count,).
    """

    def __init__(self, keys: Sequence[np.ndarray]) -> None:
        code = keys[0].astype(np.int64)
        for key in keys[1:]:
            code = _combined(code, key.astype(np.int64))
        self._order = stable_order(code)
        ordered = code[self._order]
        self._fresh = np.ones(len(code), dtype=bool)
        self._fresh[1:] = ordered[1:] != ordered[:-1]
        self._starts = np.flatnonzero(self._fresh)
        self.count = len(self._starts)
        self.first = self._order[self._starts]

    @functools.cached_property
    def group(self) -> np.ndarray:
        group = np.empty(len(self._order), dtype=np.int64)
        group[self._order] = np.cumsum(self._fresh) - 1
        return group

    def reduce(self, ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Each group's values, (rows, ...), reduced to one: (count, ...)."""
        if self.count == len(self._order):
            return values[self._order]
        return ufunc.reduceat(values[self._order], self._starts, axis=0) if self.count else values[:0]


def _combined(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """One code for pairs, in the order of the pairs."""
    if not len(left):
        return left
    for _ in range(2):
        low, width = int(right.min()), int(right.max()) - int(right.min()) + 1
        smallest = int(left.min())
        if (int(left.max()) - smallest + 1) * width < 2**63:
            return (left - smallest) * width + (right - low)
        # Too wide: numbers of the distinct values take their place.
        left, right = dense_codes(left)[0], dense_codes(right)[0]
    raise ValueError(f"{len(left)} rows have too many distinct keys for one shard; use more shards")


class Timeline:
    """Events of one kind in the order of (key, time), for look-ups "before time t under this key".

    Args:
        keys: Key columns of the events, each of shape (events,).
        timestamps: Event times in milliseconds, shape (events,).
        query_keys: Key columns of the queries, each of shape (queries,).
        memory_ms: Events further than this before their key's next one, and all before them, are forgotten by `span`.

    Attributes:
        order: Row numbers of the events in this order.
        timestamps: Event times in this order.
        start, end: For each query the positions of its key's first event and behind its last one.

    Raises:
        ValueError: If there are too many keys over too long a time for one 64-bit code.
    """

    def __init__(
        self,
        keys: Sequence[np.ndarray],
        timestamps: np.ndarray,
        query_keys: Sequence[np.ndarray],
        memory_ms: int | None = None,
    ) -> None:
        events = len(timestamps)
        codes, groups = np.zeros(events + len(query_keys[0]), dtype=np.int64), 1
        for key, query_key in zip(keys, query_keys, strict=True):
            values, distinct = dense_codes(np.concatenate([key, query_key]))
            codes, groups = (values, distinct) if groups == 1 else dense_codes(codes * distinct + values)
        self._first_ms = int(timestamps.min()) if events else 0
        self._width = (int(timestamps.max()) - self._first_ms + 2) if events else 2
        if groups * self._width >= 2**63:
            raise ValueError(
                f"{groups} keys over {self._width} ms do not fit one shard; use more shards or check the timestamps"
            )
        places = codes[:events] * self._width + (timestamps - self._first_ms)
        self.order = stable_order(places)
        self.timestamps = timestamps[self.order]
        self._places = places[self.order]
        self._query_base = codes[events:] * self._width
        self.start = np.searchsorted(self._places, self._query_base)
        self.end = np.searchsorted(self._places, self._query_base + self._width)
        self._memory_ms = memory_ms

    def before(self, timestamps: np.ndarray) -> np.ndarray:
        """For each query the position behind its key's last event earlier than `timestamps`.

        Args:
            timestamps: One a query, shape (queries,), or several, shape (queries, times).

        Returns:
            int64 of the shape of `timestamps`.
        """
        offset = np.clip(timestamps - self._first_ms, 0, self._width - 1)
        base = self._query_base if offset.ndim == 1 else self._query_base[:, None]
        return np.searchsorted(self._places, base + offset)

    def span(self, timestamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each query the positions [start, end) of its key's remembered events earlier than `timestamps`.

        Nothing is remembered, start = end, where the last of them is further back than `memory_ms`.
        """
        end = self.before(timestamps)
        if self._memory_ms is None or not len(self._places):
            return self.start, end
        fresh = np.ones(len(self._places), dtype=bool)
        fresh[1:] = np.diff(self._places) > self._memory_ms
        # Places of different keys may lie close together: the first of a key never goes before the key's start.
        since = np.maximum.accumulate(np.where(fresh, np.arange(len(fresh)), 0))
        last = np.maximum(end - 1, 0)
        start = np.maximum(since[last], self.start)
        forgotten = (end <= self.start) | (timestamps - self.timestamps[last] > self._memory_ms)
        return np.where(forgotten, end, start), end


def empty(dtypes: Mapping[str, str | tuple[str, tuple[int, ...]]]) -> Columns:
    """Columns without a row: name -> dtype, or (dtype, shape of one row)."""
    columns = {}
    for name, dtype in dtypes.items():
        kind, shape = (dtype, ()) if isinstance(dtype, str) else dtype
        columns[name] = np.zeros((0, *shape), dtype=kind)
    return columns


def concatenate(parts: Sequence[Columns]) -> Columns:
    """One below the other; all parts have the first one's columns."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def ranges(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """All positions of the ranges [start, end), one range after the other."""
    lengths = end - start
    return np.arange(lengths.sum()) + np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
