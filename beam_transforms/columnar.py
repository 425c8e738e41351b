"""Columns of a batch of events as numpy arrays: sharding, duplicates and look-ups as of a time.

The transforms work on whole batches: one element of a PCollection is a RecordBatch, and the work inside is numpy. An
element an event costs about a hundred times as much.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

Columns = dict[str, np.ndarray]


def to_columns(batches: Sequence[pa.RecordBatch]) -> Columns:
    """Concatenates batches of one schema; a fixed-size list column of width W becomes an array of shape (rows, W)."""
    if not batches:
        return {}
    table = pa.Table.from_batches(batches).combine_chunks()
    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        array = column.chunk(0) if column.num_chunks else pa.array([], field.type)
        if pa.types.is_fixed_size_list(field.type):
            values = array.flatten().to_numpy(zero_copy_only=False)
            columns[field.name] = values.reshape(len(array), field.type.list_size)
        else:
            columns[field.name] = array.to_numpy(zero_copy_only=False)
    return columns


def to_batch(columns: Columns) -> pa.RecordBatch:
    """The inverse of `to_columns`: arrays of shape (rows,) or (rows, W), one row count."""
    arrays = []
    for values in columns.values():
        if values.ndim == 1:
            arrays.append(pa.array(values))
        else:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, values.shape[1]))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def take(columns: Columns, rows: np.ndarray) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def mix(values: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each integer (the finaliser of SplitMix64): equal on every machine and in every process."""
    bits = np.asarray(values).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def hash_rows(columns: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """A 64-bit hash of each row over several integer columns."""
    state = np.full(len(columns[0]), seed, dtype=np.uint64)
    for values in columns:
        state = mix(state ^ mix(values))
    return state


def split_by_shard(batch: pa.RecordBatch, shard: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts a batch into one batch a shard, keeping the order of rows."""
    order = np.argsort(shard, kind="stable")
    shards, starts = np.unique(shard[order], return_index=True)
    ordered = batch.take(pa.array(order))
    for number, begin, end in zip(shards, starts, [*starts[1:], len(order)], strict=True):
        yield int(number), ordered.slice(begin, end - begin)


def distinct_rows(columns: Columns, names: Sequence[str] | None = None) -> np.ndarray:
    """Row numbers of the first of each set of rows that are equal in the named id columns (default: all), ascending."""
    arrays = [columns[name] for name in (names or columns)]
    if not len(arrays[0]):
        return np.zeros(0, dtype=np.int64)
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


class Timeline:
    """Events of one kind in the order of (key, time), for look-ups "before time t under this key".

    Args:
        keys: Key columns of the events, each of shape (events,).
        timestamps: Event times in milliseconds, shape (events,).
        query_keys: Key columns of the queries, each of shape (queries,).

    Attributes:
        order: Row numbers of the events in this order.
        timestamps: Event times in this order.
        start, end: For each query the positions of its key's first event and behind its last one.

    Raises:
        ValueError: If there are too many keys over too long a time for one 64-bit code.
    """

    def __init__(self, keys: Sequence[np.ndarray], timestamps: np.ndarray, query_keys: Sequence[np.ndarray]) -> None:
        events = len(timestamps)
        codes = np.zeros(events + len(query_keys[0]), dtype=np.int64)
        groups = 1
        for key, query_key in zip(keys, query_keys, strict=True):
            values, inverse = np.unique(np.concatenate([key, query_key]), return_inverse=True)
            combined = codes * len(values) + inverse
            distinct, codes = np.unique(combined, return_inverse=True)
            groups = len(distinct)
        self._first_ms = int(timestamps.min()) if events else 0
        self._width = (int(timestamps.max()) - self._first_ms + 2) if events else 2
        if groups * self._width >= 2**63:
            raise ValueError(
                f"{groups} keys over {self._width} ms do not fit one shard; use more shards or check the timestamps"
            )
        places = codes[:events] * self._width + (timestamps - self._first_ms)
        self.order = np.argsort(places, kind="stable")
        self.timestamps = timestamps[self.order]
        self._places = places[self.order]
        self._query_base = codes[events:] * self._width
        self.start = np.searchsorted(self._places, self._query_base)
        self.end = np.searchsorted(self._places, self._query_base + self._width)

    def before(self, timestamps: np.ndarray) -> np.ndarray:
        """For each query the position behind its key's last event earlier than `timestamps`, shape (queries,)."""
        offset = np.clip(timestamps - self._first_ms, 0, self._width - 1)
        return np.searchsorted(self._places, self._query_base + offset)
