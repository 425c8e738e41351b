"""ReplacedFolder: a folder whose content is replaced as a whole, once what takes its place is there."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class ReplacedFolder:
    """Context manager over a folder that a run writes anew; one run at a time.

    What is new goes into the folder `new`, a hidden one within the folder: so it is on the same disk. Before `replace`
    is called, the run may fail or be killed, and the folder holds what it held. A run that is killed within `replace`,
    which only renames, leaves a folder that the next run puts in order first.

    Args:
        folder: The folder; created if it isn't there.
        patterns: What is replaced, as of `Path.glob`; anything else in the folder stays.

    Attributes:
        new: Where what is new goes; empty at first.

    Raises:
        OSError: On entering, if another run writes the folder, or it can't be created.
    """

    def __init__(self, folder: Path, patterns: Sequence[str]) -> None:
        self._folder, self._patterns = Path(folder), patterns
        self.new, self._whole, self._old = (self._folder / name for name in (".new", ".whole", ".old"))

    def __enter__(self) -> Self:
        if self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"{self._folder} is a file; give a folder to write into")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OSError(
                    f"another run is writing into {self._folder}; wait for its end or choose another folder"
                ) from error
            except OSError:
                pass  # a file system without locks
            self._settle()
            self.new.mkdir()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._settle()
        finally:
            os.close(self._lock)

    def replace(self) -> None:
        """Puts what is new in the place of what the folder held."""
        self._old.mkdir()
        self._move(self._folder, self._old)
        self.new.rename(self._whole)  # from here on there is no way back
        self._settle()

    def _settle(self) -> None:
        """Ends a replacement that was begun: forwards if all of the old is out of the way, else backwards."""
        if self._whole.exists():
            self._move(self._whole, self._folder)
            with contextlib.suppress(FileNotFoundError):
                self._old.rename(self._whole / "old")
            shutil.rmtree(self._whole, ignore_errors=True)
        elif self._old.exists():
            self._move(self._old, self._folder)
            self._old.rmdir()
        shutil.rmtree(self.new, ignore_errors=True)

    def _move(self, source: Path, target: Path) -> None:
        for pattern in self._patterns:
            for path in list(source.glob(pattern)):
                path.rename(target / path.name)
