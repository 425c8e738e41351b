"""ServedFiles: files of served rankings that are added to, read line by line as far as events have come."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from beam_transforms.parse_event_lines import FUTURE_MS
from beam_transforms.served_lines import ServedRows, parse_served_lines

_BLOCK_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class ServedBlock:
    """Lines of one file.

    Attributes:
        text: The lines, without their newlines.
        parsed: What they hold.
    """

    text: list[bytes]
    parsed: ServedRows


class ServedFiles:
    """A file, or the `*.jsonl` files of a folder, that `serving.canary.served_log.ServedLog` adds lines to.

    Each line is read once; one without its end isn't read yet. Files that are read may be removed.

    Args:
        path: The file or folder.
        places: Name of a file -> the byte and the number of the line behind what was read.
        names: What the numbers of `SERVED_COLUMNS` stand for.
        clock: Seconds since 1970; a line more than `FUTURE_MS` ahead of it is a dead letter.

    Raises:
        FileNotFoundError: If there is nothing at the path.
    """

    def __init__(
        self,
        path: Path,
        places: Mapping[str, tuple[int, int]],
        names: list[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no file or folder of served rankings here")
        self.places, self.names = dict(places), list(names)
        self._path, self._clock = path, clock
        self._newest_ms: dict[str, int] = {}

    def read(self, until_ms: int) -> Iterator[ServedBlock]:
        """What is new, of each file until a time of `until_ms` or later was read.

        Raises:
            ValueError: If a file became shorter.
        """
        for file in sorted(self._path.glob("*.jsonl")) if self._path.is_dir() else [self._path]:
            while self._newest_ms.get(file.name, until_ms - 1) < until_ms:
                block = self._next(file)
                if block is None:
                    break
                yield block

    def _next(self, file: Path) -> ServedBlock | None:
        begin, line = self.places.get(file.name, (0, 1))
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            if size < begin:
                raise ValueError(
                    f"{file}: has {size} bytes, {begin} were read before; lines are only ever added: give new ones a "
                    "file of another name"
                )
            opened.seek(begin)
            data = opened.read(_BLOCK_BYTES)
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) < _BLOCK_BYTES:
            return None
        data = data[: whole or None]  # a block without a newline is one broken line, which ends in a later block
        text = data.split(b"\n")
        latest_ms = int(self._clock() * 1000) + FUTURE_MS
        parsed = parse_served_lines(text, self.names, str(file), line, latest_ms)
        self.places[file.name] = (begin + len(data), line + data.count(b"\n"))
        if parsed.newest_ms is not None:
            self._newest_ms[file.name] = max(parsed.newest_ms, self._newest_ms.get(file.name, parsed.newest_ms))
        return ServedBlock(text, parsed)
