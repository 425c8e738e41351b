"""Reads times: numbers of seconds or milliseconds, and ISO 8601."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_transforms.sources.tables.values import (
    Values,
    all_valid,
    as_text,
    cast_whole,
    matches,
    nulls,
    parse_floats,
    parse_integers,
    scatter,
    to_numpy,
    trimmed,
)

MIN_TIMESTAMP_MS = 946_684_800_000
MAX_TIMESTAMP_MS = 4_102_444_800_000
"""Times outside 2000-01-01 <= t < 2100-01-01 (UTC) are taken for errors."""

_MILLISECONDS_ABOVE = 10**12
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# Microseconds, because Arrow lets nanoseconds overflow in silence.
_NAIVE, _ZONED = pa.timestamp("us"), pa.timestamp("us", "UTC")


def parse_timestamps(array: pa.Array) -> Values:
    """int64 milliseconds since the epoch, UTC.

    Numbers above 1e12 are milliseconds, others seconds; text is a number or ISO 8601, taken as UTC where it names no
    zone. One column may mix them.
    """
    parsed = _parse(array)
    sane = (parsed.values >= MIN_TIMESTAMP_MS) & (parsed.values < MAX_TIMESTAMP_MS)
    return Values(parsed.values, parsed.valid & sane, parsed.missing)


def parse_days(array: pa.Array) -> Values:
    """As `parse_timestamps`, at the midnight (UTC) before."""
    day_ms = 86_400_000
    # A log has few days and many rows.
    encoded = array.dictionary_encode()
    days = parse_timestamps(encoded.dictionary)
    rows = to_numpy(encoded.indices, len(days.values))
    values = np.append(days.values // day_ms * day_ms, 0)
    return Values(values[rows], np.append(days.valid, False)[rows], np.append(days.missing, True)[rows])


def _parse(array: pa.Array) -> Values:
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(array.type):
        missing = nulls(array)
        milliseconds = to_numpy(pc.cast(pc.cast(array, pa.timestamp("ms", array.type.tz), safe=False), pa.int64()))
        return Values(milliseconds, ~missing, missing)
    text = as_text(array)
    if text is None:
        return _scaled(parse_integers(array) if pa.types.is_integer(array.type) else parse_floats(array))
    for target in (pa.int64(), _NAIVE, _ZONED):
        whole = cast_whole(text, target)
        if whole is not None:
            values = to_numpy(pc.cast(whole, pa.int64()))
            return _scaled(all_valid(values)) if target == pa.int64() else all_valid(values // 1000)
    text, missing = trimmed(text)
    numeric = matches(text, r"^-?\d+\.?\d*([eE][+-]?\d+)?$")
    other = ~numeric & ~missing
    parsed = _scaled(parse_floats(text))
    times = _iso(text.filter(pa.array(other)))
    values = np.where(numeric, parsed.values, scatter(other, times.values))
    return Values(values, (numeric & parsed.valid) | scatter(other, times.valid), missing)


def _scaled(numbers: Values) -> Values:
    """Milliseconds from numbers of seconds or milliseconds; numbers far out of range become -1, which is so too."""
    near = numbers.valid & (np.abs(numbers.values) < 10 * _MILLISECONDS_ABOVE)
    values = np.where(near, numbers.values, 0)
    milliseconds = np.where(values > _MILLISECONDS_ABOVE, values, values * 1000)
    if milliseconds.dtype.kind == "f":
        milliseconds = np.floor(milliseconds + 0.5).astype(np.int64)
    return Values(np.where(near, milliseconds, -1), numbers.valid, numbers.missing)


def _iso(text: pa.StringArray) -> Values:
    zoned = matches(text, r"[T ]\d.*([Z]|[+-]\d\d(:?\d\d)?)$")
    milliseconds = np.zeros(len(text), dtype=np.int64)
    valid = np.zeros(len(text), dtype=bool)
    for rows, target in ((zoned, _ZONED), (~zoned, _NAIVE)):
        part = text.filter(pa.array(rows))
        whole = cast_whole(part, target)
        if whole is not None:
            milliseconds[rows], valid[rows] = to_numpy(pc.cast(whole, pa.int64())) // 1000, True
            continue
        for row, value in zip(np.flatnonzero(rows), pc.cast(part, pa.binary()).to_pylist(), strict=True):
            try:
                time = datetime.datetime.fromisoformat(value.decode("utf-8", "replace"))
            except ValueError:
                continue  # stays invalid
            time = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
            milliseconds[row], valid[row] = (time - _EPOCH) // datetime.timedelta(milliseconds=1), True
    return Values(milliseconds, valid, np.zeros(len(text), dtype=bool))
