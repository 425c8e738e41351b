"""LmdbFile: the environment of an LMDB folder, opened once a process, and anew when the folder was made anew."""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb

READERS = 1024
"""So many transactions may read at once, in all processes."""

_CHECK_S = 1.0  # seconds between two looks at whether the file is still the one


@dataclasses.dataclass
class _Shared:
    """An environment and how many use it: LMDB allows one a process."""

    name: tuple[int, str]
    environment: lmdb.Environment
    inode: int
    users: int = 0


_open: dict[tuple[int, str], _Shared] = {}  # by process and path
_opening = threading.Lock()


class LmdbFile:
    """The environment of a folder, shared within the process.

    Args:
        path: The folder.
        readonly: Whether the folder can't be written.
        map_size: Upper bound of the file in bytes.
    """

    def __init__(self, path: Path, readonly: bool, map_size: int) -> None:
        self._path, self._readonly, self._map_size = path, readonly, map_size
        self._shared = _acquire(path, readonly, map_size)
        self._lock = threading.Lock()
        self._checked_s = time.monotonic()
        self._closed = False

    @contextlib.contextmanager
    def use(self) -> Iterator[lmdb.Environment]:
        """The environment of the file that is there now; it stays open until the end of the block.

        Raises:
            OSError: If the file was removed.
        """
        with self._lock:
            if not self._closed and time.monotonic() - self._checked_s >= _CHECK_S:
                self._follow()
                self._checked_s = time.monotonic()
            shared = self._shared
            with _opening:
                shared.users += 1
        try:
            yield shared.environment
        finally:
            _release(shared)

    def close(self) -> None:
        """Gives the environment back."""
        with self._lock:
            if not self._closed:
                self._closed = True
                _release(self._shared)

    def _follow(self) -> None:
        """Opens the file that has taken the place of the one that is open."""
        file = self._path / "data.mdb"
        status = file.stat() if file.exists() else None
        if status is not None and status.st_ino == self._shared.inode:
            return
        if status is None or not status.st_size:
            raise OSError(f"{self._path}: the online store was removed; write it again")
        before, self._shared = self._shared, _acquire(self._path, self._readonly, self._map_size)
        _release(before)


def _acquire(path: Path, readonly: bool, map_size: int) -> _Shared:
    name, file = (os.getpid(), str(path.resolve())), path / "data.mdb"
    with _opening:
        shared = _open.get(name)
        if shared is None or not file.exists() or shared.inode != file.stat().st_ino:  # else removed and made anew
            environment = lmdb.open(str(path), map_size=map_size, readonly=readonly, max_readers=READERS)
            shared = _open[name] = _Shared(name, environment, file.stat().st_ino)
        shared.users += 1
        return shared


def _release(shared: _Shared) -> None:
    with _opening:
        shared.users -= 1
        if not shared.users:
            if _open.get(shared.name) is shared:
                del _open[shared.name]
            shared.environment.close()
