"""Sequences of the products that a room showed or sold last, with three category levels (LiveForesighter, 2.3)."""

import numpy as np

from beam_transforms._key_series import KeySeries, last_of_each
from beam_transforms._sequence_join import SequenceJoin, in_front
from beam_transforms.columnar import Columns, concatenate, empty, take
from beam_transforms.schema import PADDING_ID, ROOM_MEMORY_MS

_CATEGORIES = ("category_1", "category_2", "category_3")

_CONTENT = ("product_id", *_CATEGORIES)

PRODUCT_COLUMNS = dict.fromkeys(("live_id", "author_id", "timestamp_ms", *_CONTENT), "int64")
"""Name -> dtype of the columns of a batch of products; `timestamp_ms` is when one began to be shown, or was sold."""

_KEY = "live_id"


def empty_product_state() -> Columns:
    """The state of `fold_products` before the first row."""
    return empty(dict.fromkeys((_KEY, "timestamp_ms", *_CONTENT), "int64"))


def product_features(
    state: Columns, rows: Columns, queries: Columns, length: int = 50, memory_ms: int = ROOM_MEMORY_MS
) -> Columns:
    """The last `length` products of a room as of each query: rows with a timestamp < `as_of_ms`.

    Rows that are equal in room, time, product and categories are one; a product that comes twice at different times is
    two entries, also in a row. Products of the same millisecond are in the order of their ids. After a gap of more than
    `memory_ms` (between two products, or the last one and the query) the sequence begins anew.

    Args:
        state: What `fold_products` returned for what is before the rows.
        rows: `PRODUCT_COLUMNS`, any order.
        queries: `live_id` and `as_of_ms`, each of shape (B,).
        length: T, products at most.

    Returns:
        `product_ids`, int64 (B, T), oldest first, and `product_categories`, int64 (B, T, 3); `PADDING_ID` in front.
    """
    series = _series(state, rows, memory_ms)
    start, end = series.span(queries)
    places = end[:, None] - np.arange(length, 0, -1)
    known = places >= start[:, None]
    categories = np.stack([series.columns[name] for name in _CATEGORIES], axis=1)
    return {
        "product_ids": in_front(series.columns["product_id"], places, known, PADDING_ID),
        "product_categories": in_front(categories, places, known, PADDING_ID),
    }


def fold_products(
    state: Columns, rows: Columns, until_ms: int, length: int = 50, memory_ms: int = ROOM_MEMORY_MS
) -> Columns:
    """The state at a later frontier: takes in the rows with a timestamp < `until_ms`.

    Returns:
        `live_id`, `timestamp_ms`, `product_id` and the categories, int64: the last `length` products of each room, in
        the order of (room, time). Rooms silent for more than `memory_ms` have none.
    """
    series = _series(state, take(rows, np.flatnonzero(rows["timestamp_ms"] < until_ms)), memory_ms)
    columns = series.columns
    kept = last_of_each(columns[_KEY], series.starts, columns["timestamp_ms"], until_ms, memory_ms, length)
    return take(columns, kept)


class ProductSequences(SequenceJoin):
    """Batches of products and of queries -> the queries with `product_ids` (T,) and `product_categories` (3 T,).

    Input is a dict of two PCollections of batches: `products` (`PRODUCT_COLUMNS`) and `queries` (`live_id`, `as_of_ms`,
    and whatever else should be carried along). See `product_features` for what a query sees. In a batch, the categories
    are flat: those of one product stand together.

    Bounded input: each query is answered once, whatever the order of the products, and rows that came twice count once.
    On a stream, fold the same functions over time instead.

    Args:
        length: T, products at most.
        memory_ms: Silence after which the sequence begins anew.
        shards: Number of groups of rooms that can be worked on in parallel.

    Raises:
        ValueError: If a number isn't positive.
    """

    def __init__(self, length: int = 50, memory_ms: int = ROOM_MEMORY_MS, shards: int = 16) -> None:
        if length <= 0 or memory_ms <= 0:
            raise ValueError(f"length and memory_ms must be positive, got {length} and {memory_ms}")
        super().__init__("products", PRODUCT_COLUMNS, _KEY, shards)
        self._length, self._memory_ms = length, memory_ms

    def features(self, rows: Columns, queries: Columns) -> Columns:
        features = product_features(empty_product_state(), rows, queries, self._length, self._memory_ms)
        flat = features["product_categories"].reshape(-1, self._length * len(_CATEGORIES))
        return {**features, "product_categories": flat}


def _series(state: Columns, rows: Columns, memory_ms: int) -> KeySeries:
    names = list(empty_product_state())
    columns = concatenate([{name: part[name] for name in names} for part in (state, rows)])
    return KeySeries(columns, len(state[_KEY]), _KEY, _CONTENT, _CONTENT, memory_ms)
