"""ServedFiles: files of served rankings that are added to, read line by line as far as events have come."""

import collections
import dataclasses
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from beam_transforms.parse_event_lines import FUTURE_MS
from beam_transforms.served_lines import ServedRows, parse_served_lines

_BLOCK_BYTES = 4 << 20
_HEAD_BYTES = 256  # a ranking's time, user and version are there: another file begins otherwise
_LAST_LINES = 100


class Place(NamedTuple):
    """How far a file is read.

    Attributes:
        byte: The byte behind what was read.
        line: The number of the line there, from 1.
        head: Digest of the file's first bytes, as far as they were read.
    """

    byte: int = 0
    line: int = 1
    head: str = ""


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

    Each line is read once; one without its end isn't read yet. Files that are read may be removed, and their names used
    again: a file that is shorter than before or begins otherwise is read from its start. What isn't a file is passed
    over.

    Args:
        path: The file or folder.
        places: Name of a file -> how far it is read; files that are gone are forgotten.
        names: What the numbers of `SERVED_COLUMNS` stand for.
        clock: Seconds since 1970; a line more than `FUTURE_MS` ahead of it is a dead letter.

    Raises:
        FileNotFoundError: If there is nothing at the path.
    """

    def __init__(
        self,
        path: Path,
        places: Mapping[str, Place],
        names: list[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no file or folder of served rankings here")
        self.places, self.names = dict(places), list(names)
        self._path, self._clock = path, clock
        self._last_ms: dict[str, collections.deque[int]] = {}

    def read(self, until_ms: int) -> Iterator[ServedBlock]:
        """What is new, of each file until the middle one of its last times is `until_ms` or later.

        The middle one of many, not the newest: a few lines that are ahead of their time don't hold up the others.
        """
        found = self._path.glob("*.jsonl") if self._path.is_dir() else [self._path]
        files = sorted(file for file in found if file.is_file())
        for name in self.places.keys() - {file.name for file in files}:
            self._forget(name)
        for file in files:
            while not self._is_read(file.name, until_ms):
                block = self._next(file)
                if block is None:
                    break
                yield block

    def _is_read(self, name: str, until_ms: int) -> bool:
        last_ms = self._last_ms.get(name, ())
        return len(last_ms) > 1 and statistics.median_low(last_ms) >= until_ms

    def _next(self, file: Path) -> ServedBlock | None:
        try:
            with file.open("rb") as opened:
                head = opened.read(_HEAD_BYTES)
                size = opened.seek(0, 2)
                place = self.places.get(file.name, Place())
                if size < place.byte or (place.byte and _digest(head[: place.byte]) != place.head):
                    self._forget(file.name)
                    place = Place()
                opened.seek(place.byte)
                data = opened.read(_BLOCK_BYTES)
        except FileNotFoundError:  # removed since it was listed
            self._forget(file.name)
            return None
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) < _BLOCK_BYTES:
            return None
        data = data[: whole or None]  # a block without a newline is one broken line, which ends in a later block
        text = data.split(b"\n")
        latest_ms = int(self._clock() * 1000) + FUTURE_MS
        parsed = parse_served_lines(text, self.names, str(file), place.line, latest_ms)
        byte = place.byte + len(data)
        self.places[file.name] = Place(byte, place.line + data.count(b"\n"), _digest(head[:byte]))
        last_ms = self._last_ms.setdefault(file.name, collections.deque(maxlen=_LAST_LINES))
        last_ms.extend(parsed.times_ms[-_LAST_LINES:].tolist())
        return ServedBlock(text, parsed)

    def _forget(self, name: str) -> None:
        self.places.pop(name, None)
        self._last_ms.pop(name, None)


def _digest(head: bytes) -> str:
    return hashlib.blake2b(head, digest_size=8).hexdigest()
