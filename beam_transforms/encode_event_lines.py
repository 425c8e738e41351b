"""Writes batches as lines of live events: the inverse of `EventLineParser`."""

import pyarrow as pa
import pyarrow.compute as pc

from beam_transforms.content import PRODUCT_COLUMNS, SEGMENT_COLUMNS
from beam_transforms.events import EVENT_ARROW_SCHEMA
from beam_transforms.line_format import PRODUCT, SEGMENT
from beam_transforms.schema import EventKind

_KINDS = sorted(EventKind)


def encode_event_lines(batch: pa.RecordBatch) -> bytes:
    """A line of JSON for each row of a batch of events, segments or products, in the order of the rows.

    What `EventLineParser` reads from them equals the batch, value for value: floats are written in full.

    Raises:
        ValueError: If the batch has other columns.
    """
    names = batch.schema.names
    columns = dict(zip(names, batch.columns, strict=True))
    if names == EVENT_ARROW_SCHEMA.names:
        numbers = pa.array([int(kind) for kind in _KINDS], pa.int8())
        kinds = pa.array([kind.name for kind in _KINDS]).take(pc.index_in(columns.pop("kind"), numbers))
        users = columns.pop("user_id")
        fields = ['{"kind":"', kinds, '"', *_fields(columns)]
        # A room's own event has no user.
        user = pc.binary_join_element_wise(',"user_id":', users.cast(pa.string()), "")
        fields.append(pc.if_else(pc.greater_equal(users, 0), user, ""))
    elif names == list(SEGMENT_COLUMNS):
        embedding = columns.pop("embedding")
        columns["timestamp_ms"] = pc.add(columns["timestamp_ms"], 1)
        width = embedding.type.list_size
        offsets = pa.array(range(0, len(embedding) * width + 1, width), pa.int32())
        floats = pa.ListArray.from_arrays(offsets, _float_text(embedding.flatten()))
        fields = [f'{{"kind":"{SEGMENT}"', *_fields(columns), ',"embedding":[', pc.binary_join(floats, ","), "]"]
    elif names == list(PRODUCT_COLUMNS):
        fields = [f'{{"kind":"{PRODUCT}"', *_fields(columns)]
    else:
        raise ValueError(
            f"expected a batch of events, segments or products (columns {EVENT_ARROW_SCHEMA.names}, "
            f"{list(SEGMENT_COLUMNS)} or {list(PRODUCT_COLUMNS)}), got the columns {names}"
        )
    lines = pc.binary_join_element_wise(*fields, "}\n", "")
    return b"".join(lines.cast(pa.binary()).to_pylist()) if batch.num_rows else b""


def _fields(columns: dict[str, pa.Array]) -> list[str | pa.Array]:
    fields: list[str | pa.Array] = []
    for name, values in columns.items():
        text = _float_text(values) if pa.types.is_floating(values.type) else values.cast(pa.string())
        fields += [f',"{name}":', text]
    return fields


def _float_text(values: pa.Array) -> pa.StringArray:
    values = values.cast(pa.float64())
    text = pc.if_else(pc.is_nan(values), "NaN", values.cast(pa.string()))
    infinite = pc.if_else(pc.greater(values, 0), "Infinity", "-Infinity")
    return pc.if_else(pc.is_inf(values), infinite, text)
