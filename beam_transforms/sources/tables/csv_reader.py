"""Streams a CSV table (RFC 4180, comma, UTF-8, plain or gzip'ed) that may be damaged.

Blocks of bytes are cut where a record ends. A block in which every quote stands where RFC 4180 wants it is parsed by
Arrow; any other block is read record by record with Python's `csv` module, which can resume behind a broken record.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from beam_transforms.sources.source import DeadLetter, SourceError
from beam_transforms.sources.tables.byte_stream import ByteStream
from beam_transforms.sources.tables.csv_blocks import MAX_RECORD_BYTES, parse_clean, record_stops
from beam_transforms.sources.tables.damaged_csv import parse_damaged
from beam_transforms.sources.tables.raw_rows import RawRows

BLOCK_BYTES = 4 << 20

_NO_HEADER = (
    f"no line with the names of columns in its first {MAX_RECORD_BYTES} bytes; lines have to end with \\n or \\r\\n"
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def csv_header(path: Path) -> list[str] | None:
    """The names of the columns, or None if the file has no content.

    Raises:
        SourceError: If no line can be read from the start of the file, or it is no line of CSV.
    """
    with ByteStream(path) as stream:
        header, _ = _split_header(path, stream.read(MAX_RECORD_BYTES), stream.damage)
    return header


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[RawRows | DeadLetter]:
    """Streams the named columns as `pa.binary()`, in a few blocks of `BLOCK_BYTES` of memory.

    What can't be cut into the header's number of columns comes as a dead letter: a record with another number of
    columns as a whole; of a record with a broken quotation its first line, and reading resumes at the line after it;
    a line longer than `MAX_RECORD_BYTES`. A gzip file that breaks off is read up to its last whole record, and one
    dead letter says where it broke. Blank lines are skipped.
    """
    with ByteStream(path) as stream:
        header, pending = _split_header(path, stream.read(MAX_RECORD_BYTES), stream.damage)
        if header is None:
            return
        wanted = {name: header.index(name) for name in columns}
        line = 2
        final = skip = False
        while not final:
            chunk = stream.read(BLOCK_BYTES)
            final = len(chunk) < BLOCK_BYTES
            pending += chunk
            if skip:
                _, newline, pending = pending.partition(b"\n")
                skip = not newline
                line += len(newline)
            whole = final and stream.damage is None
            if whole and pending and not pending.endswith(b"\n"):
                pending += b"\n"
            stops = record_stops(pending)
            if stops is None or (whole and stops[-1:].sum() < len(pending)):
                items, used = parse_damaged(pending, path, line, wanted, len(header), whole)
            else:
                items, used = parse_clean(pending, stops, path, line, wanted, len(header))
            yield from items
            line += pending.count(b"\n", 0, used)
            pending = pending[used:]
            if len(pending) > MAX_RECORD_BYTES and b"\n" not in pending:
                reason = f"the line is longer than {MAX_RECORD_BYTES} bytes"
                yield DeadLetter(str(path), line, reason, pending[:MAX_RECORD_BYTES].decode("utf-8", "replace"))
                pending, skip = b"", True
        if stream.damage is not None:
            reason = (
                f"{stream.damage} after {stream.position} bytes of content, in line {line}; "
                "the rows from here on are lost"
            )
            yield DeadLetter(str(path), line, reason, pending[:MAX_RECORD_BYTES].decode("utf-8", "replace"))


def _split_header(path: Path, content: bytes, damage: str | None) -> tuple[list[str] | None, bytes]:
    if not content and damage is None:
        return None, b""
    first, newline, rest = content.partition(b"\n")
    if not newline and (damage is not None or len(content) >= MAX_RECORD_BYTES):
        raise SourceError(f"{path}: can't be read as a CSV file: {damage or _NO_HEADER}")
    text = first.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\r").decode("utf-8", "replace")
    try:
        names = next(csv.reader([text]), [])
    except csv.Error as error:  # a carriage return stands in it
        raise SourceError(f"{path}: can't be read as a CSV file: {_NO_HEADER}") from error
    return [name.strip() for name in names], rest
