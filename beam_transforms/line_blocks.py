"""Reads a file of lines in blocks of whole lines, from any offset and in bounded memory."""

import dataclasses
import os
from pathlib import Path

from beam_transforms.line_format import MAX_LINE_BYTES

BLOCK_BYTES = 4 << 20
_KEPT = 8192


@dataclasses.dataclass(frozen=True)
class LineBlock:
    """Lines of a file.

    Attributes:
        data: Whole lines; the file's last may lack its newline.
        line: Number of the first one, from 1.
        cut_bytes: 0, or the length of a line of which `data` holds only the beginning.
        next_offset, next_line: Where the next block begins.
        is_last: Whether the file ends there.
    """

    data: bytes
    line: int
    cut_bytes: int
    next_offset: int
    next_line: int
    is_last: bool


class LineBlocks:
    """A file's blocks of at most `BLOCK_BYTES`.

    Args:
        path: The file; it must not change while it is read.
        offset, line: Where to begin: the `next_offset` and `next_line` of an earlier block, or the file's start.
    """

    def __init__(self, path: Path, offset: int = 0, line: int = 1) -> None:
        self._file = path.open("rb")
        self._size = self._file.seek(0, os.SEEK_END)
        self._file.seek(offset)
        self._offset, self._line = offset, line

    def read(self) -> LineBlock | None:
        """The next block, or None at the end."""
        data = self._file.read(BLOCK_BYTES)
        if not data:
            return None
        cut_bytes = 0
        whole = data.rfind(b"\n") + 1
        if whole:
            data = data[:whole] if len(data) == BLOCK_BYTES else data
            size = len(data)
        elif len(data) > MAX_LINE_BYTES:
            size = cut_bytes = self._line_bytes(data)
            data = data[:_KEPT]
        else:
            size = len(data)
        lines = 1 if cut_bytes else data.count(b"\n")
        stop = self._offset + size
        block = LineBlock(data, self._line, cut_bytes, stop, self._line + lines, is_last=stop >= self._size)
        self._offset, self._line = stop, block.next_line
        self._file.seek(self._offset)
        return block

    def close(self) -> None:
        self._file.close()

    def _line_bytes(self, data: bytes) -> int:
        """Length of the line that begins with `data`, with its newline."""
        size = 0
        while data and b"\n" not in data:
            size += len(data)
            data = self._file.read(BLOCK_BYTES)
        return size + data.find(b"\n") + 1
