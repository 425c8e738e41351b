"""Parses lines of JSON into a table with Arrow, and finds the lines that are in its way."""

import numpy as np
import pyarrow as pa
import pyarrow.json

from beam_transforms.line_format import LINE_SCHEMA, MAX_LINE_BYTES, fault

_NEWLINE, _OPEN, _CLOSE = b"\n{}"
_SPACES = np.frombuffer(b" \t\r", dtype=np.uint8)
_MAX_PARSED_BYTES = 1 << 30


class Lines:
    """The lines of a block: where each begins and how long it is, without its newline."""

    def __init__(self, block: bytes) -> None:
        self.block = block
        self.data = np.frombuffer(block, dtype=np.uint8)
        stops = np.flatnonzero(self.data == _NEWLINE)
        if block and block[-1] != _NEWLINE:
            stops = np.append(stops, len(block))
        self.starts = np.concatenate([[0], stops[:-1] + 1]) if len(stops) else stops
        self.lengths = stops - self.starts
        self.stops = stops
        self.filled = np.ones(len(stops), dtype=bool)
        for row in self._perhaps_blank().tolist():
            self.filled[row] = bool(self[row].strip())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> bytes:
        return self.block[self.starts[row] : self.stops[row]]

    def _perhaps_blank(self) -> np.ndarray:
        long = np.flatnonzero(self.lengths)
        spaces = long[np.isin(self.data[self.starts[long]], _SPACES)]
        return np.concatenate([np.flatnonzero(self.lengths == 0), spaces])

    def are_objects(self) -> bool:
        """Whether each filled line begins with { and ends with }, perhaps with a carriage return behind it."""
        starts, stops = self.starts[self.filled], self.stops[self.filled]
        stops = stops - (self.data[stops - 1] == ord("\r"))
        return bool((self.data[starts] == _OPEN).all() and (self.data[stops - 1] == _CLOSE).all())


def read_lines(lines: Lines) -> tuple[pa.Table, np.ndarray, dict[int, str]]:
    """Parses lines, all at once unless one of them is damaged.

    Returns:
        A table with `LINE_SCHEMA`; the number of the line of each of its rows, from 0, shape (rows,); and the reason
        for each line that isn't in it, unless it is blank.
    """
    faults = {
        row: f"a line of {lines.lengths[row]} bytes; at most {MAX_LINE_BYTES} are read"
        for row in np.flatnonzero(lines.lengths > MAX_LINE_BYTES).tolist()
    }
    # Arrow takes Inf, too, which Python doesn't.
    table = None if faults or b"Inf" in lines.block else _read(lines.block, lines)
    if table is None:
        return *_read_one_by_one(lines, faults), faults
    return table, np.flatnonzero(lines.filled), faults


def _read(block: bytes, lines: Lines) -> pa.Table | None:
    """The filled lines as a table with `LINE_SCHEMA`, or None if one of them is damaged."""
    if not lines.filled.any():
        return LINE_SCHEMA.empty_table()
    # A line is one object then: no field holds an object, and no string a newline.
    if len(block) > _MAX_PARSED_BYTES or not lines.are_objects() or not _is_utf8(block):
        return None
    try:
        table = pa.json.read_json(
            pa.BufferReader(block),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pa.json.ParseOptions(explicit_schema=LINE_SCHEMA, unexpected_field_behavior="error"),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    return table if table.num_rows == int(lines.filled.sum()) else None


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_one_by_one(lines: Lines, faults: dict[int, str]) -> tuple[pa.Table, np.ndarray]:
    """Looks at line after line; gives a table of the good ones and their numbers, and puts the others into `faults`."""
    good = []
    for row in np.flatnonzero(lines.filled).tolist():
        if row not in faults:
            reason = fault(lines[row])
            if reason:
                faults[row] = reason
            else:
                good.append(row)
    tables, rows = _read_halves(lines, good, faults)
    return pa.concat_tables([LINE_SCHEMA.empty_table(), *tables]), np.array(rows, dtype=np.int64)


def _read_halves(lines: Lines, rows: list[int], faults: dict[int, str]) -> tuple[list[pa.Table], list[int]]:
    """Parses lines together, and where one is in the way, each half by itself."""
    block = b"\n".join(lines[row].strip() for row in rows)
    table = _read(block, Lines(block))
    if table is not None:
        return [table], rows
    if len(rows) == 1:
        faults[rows[0]] = "not an object that can be read as one line of JSON"
        return [], []
    left, right = (_read_halves(lines, part, faults) for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]))
    return left[0] + right[0], left[1] + right[1]
