"""Parses a block of CSV that isn't strict RFC 4180, record by record."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from beam_transforms.sources.source import DeadLetter
from beam_transforms.sources.tables.csv_blocks import MAX_RECORD_BYTES, Items, wrong_width
from beam_transforms.sources.tables.raw_rows import RawRows


def parse_damaged(
    block: bytes, path: Path, line: int, wanted: Mapping[str, int], width: int, final: bool
) -> tuple[Items, int]:
    """Parses the records of a block; where one is broken, its first line is a dead letter and the next starts anew.

    Args and result are those of `parse_clean`; `final` says that nothing follows the block, so that a quotation that is
    open at its end is broken.
    """
    lines = block.split(b"\n")[:-1]
    items: Items = []
    rows: list[list[str]] = []
    spans: list[tuple[int, int]] = []

    def place(span: tuple[int, int]) -> tuple[int, str]:
        return line + span[0], b"\n".join(lines[slice(*span)]).decode("utf-8", "replace").rstrip("\r")

    def dead_letter(span: tuple[int, int], reason: str) -> None:
        first_line, text = place(span)
        items.append(DeadLetter(str(path), first_line, reason, text))

    first = 0
    while first < len(lines):
        rest = _Lines(lines, first)
        reader = csv.reader(rest, strict=True)
        try:
            for row in reader:
                span = (first, rest.position)
                if len(row) == width:
                    rows.append([row[position] for position in wanted.values()])
                    spans.append(span)
                elif row:
                    dead_letter(span, wrong_width(len(row), width))
                first = rest.position
        except csv.Error as error:
            if rest.exhausted and not final and sum(map(len, lines[first:])) < MAX_RECORD_BYTES:
                break
            dead_letter((first, first + 1), f"not a CSV record: {error}")
            first += 1
    if rows:
        values = zip(*rows, strict=True)
        columns = {
            name: pa.array([value.encode("latin-1") for value in column], pa.binary())
            for name, column in zip(wanted, values, strict=True)
        }
        items.append(RawRows(columns, lambda row: place(spans[row])))
    return items, sum(map(len, lines[:first])) + first


class _Lines:
    """The lines from `position` on, for `csv.reader`; `exhausted` once it has asked for more than there are.

    Decoded as Latin-1, which keeps every byte, so that bytes that aren't UTF-8 don't matter here.
    """

    def __init__(self, lines: list[bytes], position: int) -> None:
        self._lines = lines
        self.position = position
        self.exhausted = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.position == len(self._lines):
            self.exhausted = True
            raise StopIteration
        self.position += 1
        return self._lines[self.position - 1].decode("latin-1") + "\n"
