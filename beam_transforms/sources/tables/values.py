"""Turns the values of a column, as they stand in a file, into numpy arrays, and says which of them could not be."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MISSING_WORDS = pa.array(["", "null", "none", "nan", r"\n"])


@dataclasses.dataclass(frozen=True)
class Values:
    """One column of R rows.

    Attributes:
        values: Shape (R,); meaningless where `valid` is False.
        valid: Shape (R,), bool.
        missing: Shape (R,), bool: nothing stands there (null, an empty field, or NULL, None, NaN, \\N in any case).
    """

    values: np.ndarray
    valid: np.ndarray
    missing: np.ndarray


def as_text(array: pa.Array) -> pa.StringArray | None:
    """The column as text, or None if its type isn't one of text. Bytes that aren't UTF-8 stay as they are."""
    if pa.types.is_decimal(array.type):
        return array.cast(pa.string())
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(test(array.type) for test in is_text):
        return None
    return pc.cast(array, pa.string(), safe=False)


def nulls(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def to_numpy(array: pa.Array, fill: object = 0) -> np.ndarray:
    return (array.fill_null(fill) if array.null_count else array).to_numpy(zero_copy_only=False)


def no_values(array: pa.Array) -> Values:
    """What a column of a type that can't hold such values gives."""
    never = np.zeros(len(array), dtype=bool)
    return Values(np.zeros(len(array), dtype=np.int64), never, nulls(array))


def all_valid(values: np.ndarray) -> Values:
    return Values(values, np.ones(len(values), dtype=bool), np.zeros(len(values), dtype=bool))


def cast_whole(text: pa.StringArray, target: pa.DataType) -> pa.Array | None:
    """All values at once, or None if one is in the way or looks like a hexadecimal number, which Arrow would take."""
    data = text.buffers()[2]
    if text.null_count or (data is not None and np.isin(np.frombuffer(data, dtype=np.uint8), (88, 120)).any()):
        return None
    try:
        return pc.cast(text, target)
    except pa.ArrowInvalid:
        return None


def matches(text: pa.StringArray, pattern: str) -> np.ndarray:
    return to_numpy(pc.match_substring_regex(text, pattern), False)


def trimmed(text: pa.StringArray) -> tuple[pa.StringArray, np.ndarray]:
    """The text without white space around it, "" for null; and where it stands for a missing value."""
    text = pc.ascii_trim_whitespace(text.fill_null(""))
    return text, to_numpy(pc.is_in(pc.ascii_lower(text), _MISSING_WORDS))


def scatter(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """An array of the shape of the mask `rows` that holds `values` where it is True, and 0 elsewhere."""
    array = np.zeros(len(rows), dtype=values.dtype)
    array[rows] = values
    return array


def parse_integers(array: pa.Array) -> Values:
    """int64 from integers, from numbers without a fraction, and from either as text."""
    if pa.types.is_integer(array.type):
        values = to_numpy(array)
        fits = values <= np.iinfo(np.int64).max if values.dtype == np.uint64 else np.ones(len(values), dtype=bool)
        missing = nulls(array)
        return Values(values.astype(np.int64), fits & ~missing, missing)
    if pa.types.is_floating(array.type):
        floats = parse_floats(array)
        exact = floats.valid & (np.abs(floats.values) < 2.0**53) & (floats.values == np.rint(floats.values))
        return Values(np.where(exact, floats.values, 0).astype(np.int64), exact, floats.missing)
    text = as_text(array)
    if text is None:
        return no_values(array)
    whole = cast_whole(text, pa.int64())
    if whole is not None:
        return all_valid(to_numpy(whole))
    text, missing = trimmed(text)
    # 18 digits always fit; an integer of 19 may be one of 64 bits.
    valid = matches(text, r"^-?\d{1,18}(\.0*)?$")
    digits = pc.replace_substring_regex(text.filter(pa.array(valid)), r"\.0*$", "")
    values = scatter(valid, to_numpy(pc.cast(digits, pa.int64())))
    for row in np.flatnonzero(matches(text, r"^-?\d{19}(\.0*)?$")):
        number = int(text[int(row)].as_py().partition(".")[0])
        if abs(number) <= np.iinfo(np.int64).max:
            values[row], valid[row] = number, True
    return Values(values, valid, missing)


def parse_floats(array: pa.Array) -> Values:
    """Finite float64 from numbers and from text; NaN is missing."""
    if pa.types.is_floating(array.type) or pa.types.is_integer(array.type):
        values = to_numpy(array).astype(np.float64)
        missing = nulls(array) | np.isnan(values)
        return Values(values, np.isfinite(values) & ~missing, missing)
    text = as_text(array)
    if text is None:
        return no_values(array)
    whole = cast_whole(text, pa.float64())
    if whole is not None and np.isfinite(to_numpy(whole)).all():
        return all_valid(to_numpy(whole))
    text, missing = trimmed(text)
    valid = matches(text, r"^-?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,2})?$")
    values = scatter(valid, to_numpy(pc.cast(text.filter(pa.array(valid)), pa.float64())))
    return Values(values, valid & np.isfinite(values), missing)
