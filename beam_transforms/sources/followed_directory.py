"""Follows a directory into which files of live events are moved."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
from apache_beam.coders import Coder
from apache_beam.io.unbounded_source import CheckpointMark, UnboundedSource

from beam_transforms.event_lines import EventLineParser, ParsedLines
from beam_transforms.line_blocks import LineBlocks
from beam_transforms.line_format import MAX_LINE_BYTES
from beam_transforms.parse_event_lines import FUTURE_MS, latest_ms
from beam_transforms.sources.json_mark_coder import JsonMarkCoder
from beam_transforms.sources.live_reader import LiveReader
from beam_transforms.sources.live_source import LiveSource
from beam_transforms.sources.source import DeadLetter, SourceError

SUFFIX = ".jsonl"

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DirectoryMark(CheckpointMark):
    """How far a directory is read.

    Attributes:
        name: The last file that was begun, "" before the first.
        offset: Bytes of it that are read; -1 when that is all of them.
        line: Number of the next line of it.
        watermark_ms: The newest time so far.
    """

    name: str = ""
    offset: int = -1
    line: int = 1
    watermark_ms: int | None = None


class FollowedDirectory(LiveSource):
    """Reads each `*.jsonl` file of a directory once, in the order of names, as it appears.

    A file appears whole: it is written under another name (`.` in front or `.tmp` behind) and renamed, and doesn't
    change any more. Names have to ascend: one that sorts before a file that was already begun is skipped, with a dead
    letter that says so, since the checkpoint holds one name and not thousands. Producers that can't agree on the order
    of their names get a directory each. Files that are read may be removed.

    The watermark is the newest time read so far: how late events may be is the stages' business. A line further than
    `future_ms` ahead of the clock is a dead letter and doesn't move it. It isn't split: the order of files counts.

    Args:
        folder: The directory; it must exist when reading starts.
        embedding_width: Floats of a segment's embedding; None takes the first segment's.
        future_ms: How far ahead of `clock` a time may be; None lets every time pass.
        clock: Seconds since 1970 on arrival; another one for replays.
        end_name: Once a file of this name lies in the directory and all others are read, the stream has ended, for
            replays and tests. None follows for ever.
    """

    def __init__(
        self,
        folder: Path,
        embedding_width: int | None = None,
        future_ms: int | None = FUTURE_MS,
        clock: Callable[[], float] = time.time,
        end_name: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.embedding_width = embedding_width
        self.future_ms = future_ms
        self.clock = clock
        self.end_name = end_name

    @property
    def place(self) -> str:
        """The folder, whatever the path to it."""
        return f"the folder {self.folder.resolve()}"

    def split(self, desired_num_splits: int, options: object = None) -> list[UnboundedSource]:
        return [self]

    def create_reader(self, options: object, checkpoint_mark: CheckpointMark | None) -> "DirectoryReader":
        """A reader that goes on behind the mark.

        Raises:
            SourceError: If the folder isn't one.
        """
        mark = checkpoint_mark if isinstance(checkpoint_mark, DirectoryMark) else DirectoryMark()
        return DirectoryReader(self, mark)

    def get_checkpoint_mark_coder(self) -> Coder:
        return JsonMarkCoder(DirectoryMark)


class DirectoryReader(LiveReader):
    """Reads a `FollowedDirectory`; made by it."""

    def __init__(self, source: FollowedDirectory, mark: DirectoryMark) -> None:
        super().__init__(mark.watermark_ms)
        if not source.folder.is_dir():
            raise SourceError(f"{source.folder} is not a folder; make it before it is followed")
        self._source = source
        self._parser = EventLineParser(source.embedding_width)
        self._name, self._offset, self._line = mark.name, mark.offset, mark.line
        self._file: LineBlocks | None = None
        self._pending: list[str] = [mark.name] if mark.offset >= 0 else []
        self._listed: set[str] | None = None
        self._skipped = beam.metrics.Metrics.counter("read", "skipped_files")

    def get_checkpoint_mark(self) -> DirectoryMark:
        return DirectoryMark(self._name, self._offset, self._line, self._watermark_ms)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _watermark_after(self, parsed: ParsedLines | None) -> int | None:
        return parsed.newest_ms if parsed else None

    def _next(self) -> ParsedLines | None:
        while True:
            if self._file is None:
                late = self._list() if not self._pending else ()
                if late:
                    return ParsedLines(dead_letters=late)
                if not self._pending:
                    return None
                lost = self._open(self._pending.pop(0))
                if lost:
                    return lost
                continue
            parsed = self._read_block(self._file)
            if parsed is not None:
                return parsed

    def _list(self) -> tuple[DeadLetter, ...]:
        """Looks for files behind the last one; gives a dead letter for each new one that sorts before it."""
        # Looked at first: what was there before the end is in the listing.
        ending = self._source.end_name is not None and (self._source.folder / self._source.end_name).exists()
        with os.scandir(self._source.folder) as entries:
            names = {entry.name for entry in entries if _is_whole(entry.name) and entry.name != self._source.end_name}
        self._pending = sorted(name for name in names if name > self._name)
        known = names if self._listed is None else self._listed
        late = sorted(name for name in names - known if name <= self._name)
        self._listed = names
        self._ended = ending and not self._pending and not late
        for name in late:
            self._skipped.inc()
            _LOGGER.warning("%s is skipped: %s was read before it appeared", self._source.folder / name, self._name)
        reason = f"the file is skipped: it sorts before {self._name}, which was read before it appeared"
        return tuple(DeadLetter(str(self._source.folder / name), 0, reason, "") for name in late)

    def _open(self, name: str) -> ParsedLines | None:
        """Begins a file, or goes on in the one of the mark; a dead letter if it is gone."""
        begun = name == self._name
        offset, line = (self._offset, self._line) if begun else (0, 1)
        self._name, self._offset, self._line = name, -1, 1
        path = self._source.folder / name
        try:
            self._file = LineBlocks(path, offset, line)
        except OSError as error:
            reason = f"the file can't be opened from byte {offset} on: {error.strerror}"
            return ParsedLines(dead_letters=(DeadLetter(str(path), line, reason, ""),))
        self._offset, self._line = offset, line
        return None

    def _read_block(self, file: LineBlocks) -> ParsedLines | None:
        """The next lines of the file, or None if they say nothing or the file is over."""
        path = str(self._source.folder / self._name)
        block = file.read()
        if block is None:
            self.close()
            self._offset, self._line = -1, 1
            return None
        self._offset, self._line = block.next_offset, block.next_line
        if block.is_last:
            self.close()
            self._offset, self._line = -1, 1
        if block.cut_bytes:
            reason = f"a line of {block.cut_bytes} bytes; at most {MAX_LINE_BYTES} are read"
            text = block.data.decode("utf-8", "replace")
            return ParsedLines(dead_letters=(DeadLetter(path, block.line, reason, text),))
        latest = latest_ms(self._source.future_ms, self._source.clock)
        parsed = self._parser.parse(block.data, path, block.line, latest)
        return None if parsed.is_empty else parsed


def _is_whole(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")
