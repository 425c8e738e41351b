"""The kinds of values that columns hold."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_transforms.sources.tables.timestamps import parse_days, parse_timestamps
from beam_transforms.sources.tables.values import (
    Values,
    all_valid,
    as_text,
    matches,
    no_values,
    nulls,
    parse_floats,
    parse_integers,
    to_numpy,
    trimmed,
)

MAX_COUNT = 100_000
"""Larger counts in one row are taken for errors."""

MAX_AMOUNT = 1e12
"""Larger prices are taken for errors."""

MAX_DURATION_MS = 86_400_000
"""Longer sessions are taken for errors: one whose duration is in microseconds would end days after the log."""


@dataclasses.dataclass(frozen=True)
class ValueType:
    """How a column is read: `parse` doesn't raise on bad values; `expected` says in words what a good one is."""

    expected: str
    parse: Callable[[pa.Array], Values]


def _ids(array: pa.Array) -> Values:
    parsed = parse_integers(array)
    return Values(parsed.values, parsed.valid & (parsed.values >= 0), parsed.missing)


def _counts(array: pa.Array) -> Values:
    parsed = parse_integers(array)
    return Values(parsed.values, parsed.valid & (parsed.values >= 0) & (parsed.values <= MAX_COUNT), parsed.missing)


def _amounts(array: pa.Array) -> Values:
    parsed = parse_floats(array)
    return Values(parsed.values, parsed.valid & (parsed.values >= 0) & (parsed.values <= MAX_AMOUNT), parsed.missing)


def _durations(array: pa.Array) -> Values:
    parsed = _amounts(array)
    return Values(parsed.values, parsed.valid & (parsed.values <= MAX_DURATION_MS), parsed.missing)


def _flags(array: pa.Array) -> Values:
    if pa.types.is_boolean(array.type):
        return Values(to_numpy(array, False), ~nulls(array), nulls(array))
    text = as_text(array)
    if text is None:
        numbers = parse_floats(array)
        return Values(numbers.values != 0, numbers.valid & np.isin(numbers.values, (0, 1)), numbers.missing)
    text, missing = trimmed(text)
    yes, no = matches(text, r"(?i)^(1(\.0)?|true)$"), matches(text, r"(?i)^(0(\.0)?|false)$")
    return Values(yes, yes | no, missing)


def _characters(array: pa.Array) -> Values:
    text = as_text(array)
    if text is None:
        return no_values(array)
    try:
        lengths = pc.utf8_length(text.cast(pa.binary()).cast(pa.string()))
    except pa.ArrowInvalid:
        contents = text.cast(pa.binary()).fill_null(b"").to_pylist()
        return all_valid(np.array([len(content.decode("utf-8", "replace")) for content in contents], dtype=np.int64))
    return all_valid(to_numpy(lengths).astype(np.int64))


def _words(array: pa.Array) -> Values:
    text = as_text(array)
    if text is None:
        return no_values(array)
    return all_valid(to_numpy(pc.count_substring_regex(text, r"[^ ]+")).astype(np.int64))


def _texts(array: pa.Array) -> Values:
    text = as_text(array)
    if text is None:
        return no_values(array)
    contents = text.cast(pa.binary()).fill_null(b"").to_pylist()
    values = np.array([content.decode("utf-8", "replace") for content in contents], dtype=object)
    return Values(values, np.ones(len(text), dtype=bool), nulls(array))


def _reentries(array: pa.Array) -> Values:
    text = as_text(array)
    if text is None:
        return no_values(array)
    return all_valid(matches(pc.ascii_trim_whitespace(text), r"(?i)^re[-_ ]?enter$"))


def _names(array: pa.Array) -> Values:
    text = as_text(array)
    if text is None:
        text = array.cast(pa.string()) if pa.types.is_integer(array.type) else None
    if text is None:
        return no_values(array)
    text, missing = trimmed(text)
    codes = np.fromiter(map(hash, text.cast(pa.binary()).to_pylist()), dtype=np.int64, count=len(text))
    return Values(codes, ~missing, missing)


def vectors_of(width: int) -> ValueType:
    """Lists of `width` numbers; `Values.values` has the shape (R, width). NaN and infinity are numbers here."""

    def parse(array: pa.Array) -> Values:
        missing = nulls(array)
        lists = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
        if not (lists or pa.types.is_fixed_size_list(array.type)) or not _is_number(array.type.value_type):
            return Values(np.zeros((len(array), width), dtype=np.float32), np.zeros(len(array), dtype=bool), missing)
        valid = to_numpy(pc.equal(pc.list_value_length(array), width), False).astype(bool)
        flat = (array if valid.all() else array.filter(pa.array(valid))).flatten()
        vectors = to_numpy(flat, np.nan).reshape(-1, width)
        if flat.null_count:
            holes = nulls(flat).reshape(-1, width).any(axis=1)
            vectors = vectors[~holes]
            valid[np.flatnonzero(valid)[holes]] = False
        if valid.all():
            values = vectors.astype(np.float32, copy=False)
        else:
            values = np.zeros((len(array), width), dtype=np.float32)
            values[valid] = vectors
        return Values(values, valid, missing)

    return ValueType(f"a list of {width} numbers", parse)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


ID = ValueType("an id (an integer >= 0)", _ids)
COUNT = ValueType(f"a count from 0 to {MAX_COUNT}", _counts)
AMOUNT = ValueType(f"a number from 0 to {MAX_AMOUNT:g}", _amounts)
DURATION = ValueType(f"milliseconds from 0 to {MAX_DURATION_MS} (24 hours)", _durations)
FLAG = ValueType("0, 1, true or false", _flags)
TIMESTAMP = ValueType("a time from 2000 to 2099 (ISO 8601, or seconds or milliseconds since 1970)", parse_timestamps)
DAY = ValueType("a date from 2000 to 2099 (ISO 8601)", parse_days)
CHARACTERS = ValueType("text", _characters)
"""The number of characters of a text; bytes that aren't UTF-8 count as what `errors="replace"` puts there."""
TEXT = ValueType("text", _texts)
"""The text itself, `str` objects."""
WORDS = ValueType("words between spaces", _words)
"""The number of words."""
REENTRY = ValueType("text", _reentries)
"""Whether the word is `re-enter`."""
NAME = ValueType("a name (text that isn't empty)", _names)
"""A number that stands for the name; equal names have equal numbers within one process."""
