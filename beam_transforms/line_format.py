"""What a line of live events looks like: its fields by kind, and what is wrong with one that doesn't."""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from beam_transforms.schema import EventKind
from beam_transforms.sources.tables.timestamps import MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS

SEGMENT, PRODUCT = "SEGMENT", "PRODUCT"

MAX_LINE_BYTES = 1 << 20
"""A longer line is damaged; one with an embedding of 1,000 floats has about 20 KB."""

LINE_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        *((name, pa.int64()) for name in ("timestamp_ms", "user_id", "author_id", "live_id")),
        ("value", pa.float64()),
        ("embedding", pa.list_(pa.float64())),
        *((name, pa.int64()) for name in ("product_id", "category_1", "category_2", "category_3")),
    ]
)
"""Every field that a line may have."""

_COMMON = ("kind", "timestamp_ms", "author_id", "live_id")
_ROOM_KINDS = (EventKind.ROOM_START, EventKind.ROOM_END)
_WITH_UNIT = (EventKind.LEAVE, EventKind.COMMENT, EventKind.GIFT, EventKind.ORDER, EventKind.EMOTE)

REQUIRED: dict[str, tuple[str, ...]] = {
    **{kind.name: (*_COMMON, *(() if kind in _ROOM_KINDS else ("user_id",))) for kind in EventKind},
    **{kind.name: (*_COMMON, "user_id", "value") for kind in _WITH_UNIT},
    SEGMENT: (*_COMMON, "embedding"),
    PRODUCT: (*_COMMON, "product_id", "category_1", "category_2", "category_3"),
}
"""Kind -> the fields that a line of it must have. `value` may be left out where its kind gives it no unit: it is 1."""

ALLOWED: dict[str, tuple[str, ...]] = {
    kind: fields if kind in (SEGMENT, PRODUCT) or "value" in fields else (*fields, "value")
    for kind, fields in REQUIRED.items()
}
"""Kind -> the fields that a line of it may have."""

_MAX_VALUE_TEXT = 100
_BEYOND_FLOAT32 = 3.5e38


def fault(line: bytes) -> str:
    """Why a line can't be read, or "" if nothing was found; doesn't raise. Embeddings' width isn't looked at.

    Args:
        line: At most `MAX_LINE_BYTES` bytes without a newline.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    try:
        row = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        return "not JSON that can be read: it is nested too deeply"
    except ValueError as error:
        return f"not a JSON object on one line: {error}"
    if not isinstance(row, dict):
        return f"expected a JSON object, got {_shown(row)}"
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in REQUIRED:
        return f"kind should be one of {', '.join(REQUIRED)}, got {_shown(kind)}"
    given = [name for name, value in row.items() if value is not None]
    for name in row:
        if name not in LINE_SCHEMA.names:
            return f"unknown field {_shown(name)}; a {kind} has {', '.join(ALLOWED[kind])}"
    for name in given:
        if name not in ALLOWED[kind]:
            return f"a {kind} has no {name}, got {_shown(row[name])}"
    missing = [name for name in REQUIRED[kind] if name not in given]
    if missing:
        return f"a {kind} needs {', '.join(missing)}"
    return "; ".join(filter(None, (_wrong(name, row[name]) for name in given if name != "kind")))


def _wrong(name: str, value: Any) -> str:
    if name == "embedding":
        numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
        return "" if numbers and value else f"embedding should be a list of numbers, got {_shown(value)}"
    if name == "value":
        near = type(value) in (int, float) and abs(value) < _BEYOND_FLOAT32
        with np.errstate(over="ignore"):
            good = near and bool(np.isfinite(np.float32(value)))
        return "" if good else f"value should be a finite number, got {_shown(value)}"
    if name == "timestamp_ms":
        good = type(value) is int and MIN_TIMESTAMP_MS <= value < MAX_TIMESTAMP_MS
        return "" if good else f"timestamp_ms should be milliseconds from 2000 to 2099, got {_shown(value)}"
    good = type(value) is int and 0 <= value < 2**63
    return "" if good else f"{name} should be an id (an integer >= 0), got {_shown(value)}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {_shown(next(name for name in names if names.count(name) > 1))} stands twice")
    return row


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:_MAX_VALUE_TEXT])
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1000:
        return "a number of hundreds of digits"
    return repr(value[:5] if isinstance(value, list) else value)[:_MAX_VALUE_TEXT]
