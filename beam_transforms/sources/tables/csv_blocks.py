"""Parses a block of bytes that starts where a CSV record starts, with Arrow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from beam_transforms.sources.source import DeadLetter
from beam_transforms.sources.tables.raw_rows import RawRows

MAX_RECORD_BYTES = 128 << 10
"""A record longer than this is taken for a broken quotation that runs on."""

Items = list[RawRows | DeadLetter]

_NEWLINE, _RETURN, _QUOTE, _COMMA = b'\n\r",'


def record_stops(block: bytes) -> np.ndarray | None:
    """Positions behind the records that end in `block`, or None if it isn't strict RFC 4180.

    Strict means that every quote opens a field, closes one or is doubled inside one, that every carriage return is
    followed by a newline, that no record is longer than `MAX_RECORD_BYTES`, and that the records are UTF-8.
    """
    data = np.frombuffer(block, dtype=np.uint8)
    ends: np.ndarray = np.flatnonzero(data == _NEWLINE)
    if b"\r" in block:
        behind = np.flatnonzero(data == _RETURN) + 1
        if (data[behind[behind < len(data)]] != _NEWLINE).any():
            return None
    if b'"' in block:
        quotes = np.flatnonzero(data == _QUOTE)
        # Counted from the record's start, quotes open and close by turns; a doubled quote closes and opens again.
        before = data[quotes[::2][quotes[::2] > 0] - 1]
        behind = quotes[1::2] + 1
        after = data[behind[behind < len(data)]]
        if not np.isin(before, (_COMMA, _NEWLINE, _QUOTE)).all():
            return None
        if not np.isin(after, (_COMMA, _NEWLINE, _QUOTE, _RETURN)).all():
            return None
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    stops = ends + 1
    longest = np.diff(stops, prepend=0, append=len(block)).max()
    return stops if longest <= MAX_RECORD_BYTES and _is_utf8(block, int(stops[-1:].sum())) else None


def _is_utf8(block: bytes, size: int) -> bool:
    if block.isascii():
        return True
    try:
        str(memoryview(block)[:size], "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def wrong_width(columns: int, width: int) -> str:
    return f"{columns} columns instead of the header's {width}"


def parse_clean(
    block: bytes, stops: np.ndarray, path: Path, line: int, wanted: Mapping[str, int], width: int
) -> tuple[Items, int]:
    """Parses the records that `record_stops` found.

    Args:
        line: Line of the file on which the block starts.
        wanted: Name -> position of the columns to give.
        width: Number of columns that a record must have.

    Returns:
        What was read, and the number of bytes that it took.
    """
    if not len(stops):
        return [], 0
    used = int(stops[-1])
    locate = _Locator(block, stops, line)
    wrong: list[int] = []
    letters: Items = []

    def dead_letter(row: pa.csv.InvalidRow) -> str:
        record = row.number - 1
        wrong.append(record)
        first_line, text = locate.record(record)
        letters.append(DeadLetter(str(path), first_line, wrong_width(row.actual_columns, width), text))
        return "skip"

    table = pa.csv.read_csv(
        pa.BufferReader(pa.py_buffer(memoryview(block)[:used])),
        read_options=pa.csv.ReadOptions(
            use_threads=False, block_size=used + 1, column_names=[str(position) for position in range(width)]
        ),
        parse_options=pa.csv.ParseOptions(
            newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=dead_letter
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=[str(position) for position in wanted.values()],
            column_types={str(position): pa.binary() for position in wanted.values()},
            strings_can_be_null=False,
        ),
    )
    locate.records = np.delete(np.arange(len(stops)), wrong)
    if table.num_rows != len(locate.records):
        raise RuntimeError(f"{path}, line {line}: {len(locate.records)} records were parsed as {table.num_rows}")
    blank = locate.blank(locate.records)
    if blank.any():
        table = table.filter(pa.array(~blank))
        locate.records = locate.records[~blank]
    if table.num_rows:
        columns = [column.combine_chunks() for column in table.columns]
        letters.append(RawRows(dict(zip(wanted, columns, strict=True)), locate))
    return letters, used


class _Locator:
    """Finds the line and the text of a row; `records` holds the number of each row's record."""

    def __init__(self, block: bytes, stops: np.ndarray, line: int) -> None:
        self._block = block
        self._stops = stops
        self._starts = np.concatenate([[0], stops[:-1]])
        self._line = line
        self._newlines: np.ndarray | None = None
        self.records = np.arange(len(stops))

    def blank(self, records: np.ndarray) -> np.ndarray:
        lengths = self._stops[records] - self._starts[records]
        returns = np.frombuffer(self._block, dtype=np.uint8)[self._starts[records]] == _RETURN
        return (lengths == 1) | ((lengths == 2) & returns)

    def record(self, number: int) -> tuple[int, str]:
        if self._newlines is None:
            self._newlines = np.flatnonzero(np.frombuffer(self._block, dtype=np.uint8) == _NEWLINE)
        start, stop = int(self._starts[number]), int(self._stops[number])
        line = self._line + int(np.searchsorted(self._newlines, start))
        return line, self._block[start:stop].decode("utf-8", "replace").rstrip("\r\n")

    def __call__(self, row: int) -> tuple[int, str]:
        return self.record(int(self.records[row]))
