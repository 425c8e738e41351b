"""Reads a table: finds known columns in the file's header, and turns rows into numpy columns or dead letters."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_transforms.sources.source import DeadLetter, SourceError
from beam_transforms.sources.tables.csv_reader import csv_header, read_csv
from beam_transforms.sources.tables.parquet_reader import parquet_header, read_parquet
from beam_transforms.sources.tables.raw_rows import RawRows
from beam_transforms.sources.tables.value_types import ValueType

Rows = dict[str, np.ndarray]
"""Column name -> values of R good rows, each of shape (R,)."""

_MAX_VALUE_TEXT = 100


@dataclasses.dataclass(frozen=True)
class Column:
    """One column that a reader wants.

    Attributes:
        name: The name in `Rows`.
        type: How its values are read.
        aliases: The names it may have in the file, if not `name`.
        default: Stands where a row has no value; None makes a row without a value a dead letter.
        required: Whether a file without the column is an error. If it isn't, `Rows` lacks the column.
    """

    name: str
    type: ValueType
    aliases: tuple[str, ...] = ()
    default: int | float | bool | None = None
    required: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return self.aliases or (self.name,)


@dataclasses.dataclass(frozen=True)
class RowCheck:
    """A condition between columns of a row: `holds` gives a bool array of shape (R,), `expected` says it in words.

    Rows are checked once, in the order of the file, and only those whose every value could be read.
    """

    expected: str
    holds: Callable[[Rows], np.ndarray]


def read_header(path: Path) -> list[str] | None:
    """The names of a file's columns, or None if it is empty.

    Raises:
        SourceError: If the file can't be read at all.
    """
    return parquet_header(path) if path.suffix == ".parquet" else csv_header(path)


def missing_columns(header: Sequence[str], columns: Sequence[Column]) -> list[str]:
    """The required columns that a header lacks, in words."""
    lacking = [column for column in columns if column.required and not set(column.names) & set(header)]
    return [" or ".join(column.names) for column in lacking]


def find_columns(path: Path, header: Sequence[str], columns: Sequence[Column]) -> dict[str, Column]:
    """Name in the file -> column, for those of `columns` that the file has.

    Raises:
        SourceError: If the file lacks a required column.
    """
    missing = missing_columns(header, columns)
    if missing:
        raise SourceError(f"{path}: lacks the columns {missing}; it has {list(header)}")
    found: dict[str, Column] = {}
    for column in columns:
        name = next((name for name in column.names if name in header), None)
        if name is not None:
            found[name] = column
    return found


def read_table(path: Path, columns: Sequence[Column], check: RowCheck | None = None) -> Iterator[Rows | DeadLetter]:
    """Streams a CSV, CSV.gz or Parquet file; a row that can't be read, or fails the check, comes as a dead letter.

    Raises:
        SourceError: If the file lacks a required column.
    """
    header = read_header(path)
    if header is None:
        return
    found = find_columns(path, header, columns)
    reader = read_parquet if path.suffix == ".parquet" else read_csv
    for item in reader(path, list(found)):
        if isinstance(item, DeadLetter):
            yield item
        else:
            yield from _convert(path, item, found, check)


def _convert(
    path: Path, raw: RawRows, columns: Mapping[str, Column], check: RowCheck | None
) -> Iterator[Rows | DeadLetter]:
    rows: Rows = {}
    wrong: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        array = raw.columns[name]
        array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
        parsed = column.type.parse(array)
        values, valid = parsed.values, parsed.valid
        if column.default is not None and parsed.missing.any():
            values, valid = np.where(parsed.missing, column.default, values), valid | parsed.missing
        rows[column.name] = values
        if not valid.all():
            wrong[name] = ~valid
    bad = np.any(list(wrong.values()), axis=0) if wrong else np.zeros(len(next(iter(rows.values()))), dtype=bool)
    unfit = np.zeros_like(bad)
    if check and not bad.all():
        fit = {name: values[~bad] for name, values in rows.items()} if bad.any() else rows
        unfit[~bad] = ~check.holds(fit)
    for row in np.flatnonzero(bad | unfit):
        reasons = [_reason(name, columns[name], raw.columns[name][int(row)]) for name in wrong if wrong[name][row]]
        if check and unfit[row]:
            reasons.append(check.expected)
        line, text = raw.locate(int(row))
        yield DeadLetter(str(path), line, "; ".join(reasons), text)
    good = ~(bad | unfit)
    if good.any():
        yield rows if good.all() else {name: values[good] for name, values in rows.items()}


def _reason(name: str, column: Column, value: pa.Scalar) -> str:
    found = value.as_py()
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    return f"{name} should be {column.type.expected}, got {str(text)[:_MAX_VALUE_TEXT]!r}"
