"""Batches of what rooms show: segments with their embeddings, and products, as Arrow record batches."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SEGMENT_COLUMNS: dict[str, str] = {
    "live_id": "int64",
    "author_id": "int64",
    "timestamp_ms": "int64",
    "embedding": "float32",
}
"""Name -> numpy dtype of the columns of a batch of segments, in this order; `embedding` has the shape (rows, W).

`timestamp_ms` is the segment's last millisecond, its end - 1: `timestamp_ms < t` means that it has ended by t.
"""

PRODUCT_COLUMNS: dict[str, str] = {
    "live_id": "int64",
    "author_id": "int64",
    "timestamp_ms": "int64",
    "product_id": "int64",
    "category_1": "int64",
    "category_2": "int64",
    "category_3": "int64",
}
"""Name -> numpy dtype of the columns of a batch of products, in this order.

`timestamp_ms` is when the room began to show or sell the product.
"""

PRODUCT_ARROW_SCHEMA = pa.schema([(name, pa.type_for_alias(dtype)) for name, dtype in PRODUCT_COLUMNS.items()])
"""The Arrow schema of a batch of products. No column holds a null."""

MAX_SEGMENT_ROWS = 16_384
"""Most rows of one batch of segments: 8 MiB of embeddings of 128 floats."""


def segment_arrow_schema(width: int) -> pa.Schema:
    """The Arrow schema of a batch of segments with embeddings of `width` floats. No column holds a null."""
    types = {"embedding": pa.list_(pa.float32(), width)}
    return pa.schema([(name, types.get(name, pa.type_for_alias(dtype))) for name, dtype in SEGMENT_COLUMNS.items()])


def segment_batch(
    live_id: npt.ArrayLike, author_id: npt.ArrayLike, timestamp_ms: npt.ArrayLike, embedding: npt.ArrayLike
) -> pa.RecordBatch:
    """Builds a record batch with schema `segment_arrow_schema(W)` from columns, and checks what they hold.

    Args:
        live_id: Ids >= 0. This and the two columns below have the shape (rows,), or are one number for all.
        author_id: Ids >= 0.
        timestamp_ms: The segments' last milliseconds, UTC; shape (rows,), it says how many segments there are.
        embedding: Numbers, shape (rows, W), W > 0. What isn't finite is the quantiser's business, not checked here.

    Raises:
        ValueError: If a column has another shape, isn't made of integers (of numbers for `embedding`), or holds an id
            below 0.
    """
    ids = {"live_id": live_id, "author_id": author_id, "timestamp_ms": timestamp_ms}
    columns = _integers(ids, "segments")
    rows = len(columns["timestamp_ms"])
    vectors = np.asarray(embedding)
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise ValueError(f"embedding must have the shape ({rows}, W) with W > 0, got {vectors.shape}")
    if vectors.dtype.kind not in "iuf":
        raise ValueError(f"embedding must hold numbers, got dtype {vectors.dtype}")
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(vectors, dtype=SEGMENT_COLUMNS["embedding"]).reshape(-1)
    arrays = [pa.array(values) for values in columns.values()]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1]))
    return pa.RecordBatch.from_arrays(arrays, schema=segment_arrow_schema(vectors.shape[1]))


def product_batch(
    live_id: npt.ArrayLike,
    author_id: npt.ArrayLike,
    timestamp_ms: npt.ArrayLike,
    product_id: npt.ArrayLike,
    category_1: npt.ArrayLike,
    category_2: npt.ArrayLike,
    category_3: npt.ArrayLike,
) -> pa.RecordBatch:
    """Builds a record batch with schema `PRODUCT_ARROW_SCHEMA` from columns, and checks what they hold.

    Args:
        live_id: Ids >= 0. Every column has the shape (rows,), or is one number for all.
        author_id: Ids >= 0.
        timestamp_ms: When the room began to show the product, UTC; shape (rows,), it says how many rows there are.
        product_id: Ids >= 0.
        category_1: Ids >= 0 of the product's category, the coarsest level.
        category_2: The same, the middle level.
        category_3: The same, the finest level.

    Raises:
        ValueError: If a column has another shape, isn't made of integers, or holds an id below 0.
    """
    given = (live_id, author_id, timestamp_ms, product_id, category_1, category_2, category_3)
    columns = _integers(dict(zip(PRODUCT_COLUMNS, given, strict=True)), "products")
    return pa.RecordBatch.from_arrays([pa.array(values) for values in columns.values()], schema=PRODUCT_ARROW_SCHEMA)


def _integers(given: Mapping[str, npt.ArrayLike], what: str) -> dict[str, np.ndarray]:
    shape = np.shape(given["timestamp_ms"])
    if len(shape) != 1:
        raise ValueError(f"timestamp_ms must have the shape ({what},), got {shape}")
    columns = {}
    for name, values in given.items():
        array = np.asarray(values)
        if array.shape not in ((), shape):
            raise ValueError(f"{name} must have the shape {shape} of timestamp_ms or be one number, got {array.shape}")
        if array.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold integers, got dtype {array.dtype}")
        if name != "timestamp_ms" and array.size and array.min() < 0:
            raise ValueError(f"{name} must be >= 0, got {int(array.min())}")
        columns[name] = np.ascontiguousarray(np.broadcast_to(array, shape), dtype=np.int64)
    return columns
