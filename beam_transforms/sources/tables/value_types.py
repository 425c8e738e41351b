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
"""Larger prices and durations are taken for errors."""


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


def _reentries(array: pa.Array) -> Values:
    text = as_text(array)
    if text is None:
        return no_values(array)
    return all_valid(matches(pc.ascii_trim_whitespace(text), r"(?i)^re[-_ ]?enter$"))


ID = ValueType("an id (an integer >= 0)", _ids)
COUNT = ValueType(f"a count from 0 to {MAX_COUNT}", _counts)
AMOUNT = ValueType(f"a number from 0 to {MAX_AMOUNT:g}", _amounts)
FLAG = ValueType("0, 1, true or false", _flags)
TIMESTAMP = ValueType("a time from 2000 to 2099 (ISO 8601, or seconds or milliseconds since 1970)", parse_timestamps)
DAY = ValueType("a date from 2000 to 2099 (ISO 8601)", parse_days)
CHARACTERS = ValueType("text", _characters)
"""The number of characters of a text; bytes that aren't UTF-8 count as what `errors="replace"` puts there."""
WORDS = ValueType("words between spaces", _words)
"""The number of words."""
REENTRY = ValueType("text", _reentries)
"""Whether the word is `re-enter`."""
