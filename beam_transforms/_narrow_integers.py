"""Integers of a batch in as few bytes as they need: what LZ4 saves on ids, times and counts, for less time."""

import json

import numpy as np
import pyarrow as pa

_KEY = b"narrowed_int64"
_FEWEST_ROWS = 1024  # below that the call costs more than the bytes


def narrow(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its int64 columns (and fixed-size lists of them) as offsets from their least value.

    A column is left as it is if its offsets need more than 32 bits, or it holds nulls. `widen` is the inverse.
    """
    if batch.num_rows < _FEWEST_ROWS:
        return batch
    arrays, fields, bases = [], [], {}
    for field, array in zip(batch.schema, batch.columns, strict=True):
        is_list = pa.types.is_fixed_size_list(field.type)
        found = None
        if (field.type.value_type if is_list else field.type) == pa.int64() and not array.null_count:
            found = _offsets((array.flatten() if is_list else array).to_numpy(zero_copy_only=False))
        if found is not None:
            bases[field.name], offsets = found
            array = pa.array(offsets)
            array = pa.FixedSizeListArray.from_arrays(array, field.type.list_size) if is_list else array
            field = pa.field(field.name, array.type)
        arrays.append(array)
        fields.append(field)
    if not bases:
        return batch
    metadata = {**(batch.schema.metadata or {}), _KEY: json.dumps(bases).encode()}
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata))


def widen(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The inverse of `narrow`; other batches are left as they are."""
    metadata = dict(batch.schema.metadata or {})
    if _KEY not in metadata:
        return batch
    bases = json.loads(metadata.pop(_KEY))
    arrays, fields = [], []
    for field, array in zip(batch.schema, batch.columns, strict=True):
        if field.name in bases:
            is_list = pa.types.is_fixed_size_list(field.type)
            values = (array.flatten() if is_list else array).to_numpy(zero_copy_only=False).astype(np.int64)
            values += bases[field.name]
            array = pa.array(values)
            array = pa.FixedSizeListArray.from_arrays(array, field.type.list_size) if is_list else array
            field = pa.field(field.name, array.type)
        arrays.append(array)
        fields.append(field)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata or None))


def _offsets(values: np.ndarray) -> tuple[int, np.ndarray] | None:
    if not len(values):
        return None
    low = int(values.min())
    span = int(values.max()) - low
    for dtype in (np.uint8, np.uint16, np.uint32):
        if span <= np.iinfo(dtype).max:
            return low, (values - low).astype(dtype) if low else values.astype(dtype)
    return None
