"""VersionFolders: a model's versions on the disk, and how one more comes to stand among them."""

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import filelock

from serving.durable_files import copy_file_durably, replace_durably, sync_folder
from serving.publish_error import PublishError
from serving.version_manifest import MANIFEST_FILE

GRAPH_FILE = "saved_model.pb"
"""A folder with this file is what a model server can load, so it is the last to come and the first to go."""

_STAGING_PREFIX = ".publish-"  # no version: servers look only at names that are whole numbers
_LOCK_FILE = ".publish.lock"
_LAST_VERSION_FILE = ".last_version"
_LARGEST_VERSION = 2**63 - 1

_log = logging.getLogger(__name__)


class VersionFolders:
    """The folder of one model's versions, `base`/VERSION.

    A version is whole or absent, whenever a process is killed: it is made under a name that no server takes for one,
    and renamed. Numbers only grow, also when versions are deleted. One process adds at a time. What a killed one left
    is removed by the next.

    With `rename=False`, for paths where a folder can't be renamed in one step (object stores, most FUSE mounts of
    them): a version is made in a temporary folder of this machine and then copied file by file, the manifest first and
    `saved_model.pb` last, which itself appears whole (by a hard link, or where there are none, as object stores write
    their objects). A kill leaves a folder without `saved_model.pb`. Nothing is renamed, and folders aren't
    synchronised. The lock holds among processes of one machine only: publish from one.

    Such a folder does have a number for a name while it is filled, and TensorFlow Serving, which goes by the name, may
    try to load it: that fails, and is tried again five times, a minute apart (`--max_num_load_retries`,
    `--load_retry_interval_micros`). An upload that takes longer than this stays unserved until the next version. Where
    there is a choice, publish to a file system with `rename=True` and copy whole versions from there into a folder that
    each server has for itself.
    """

    def __init__(self, base: Path, keep: int = 5, rename: bool = True) -> None:
        """Touches nothing.

        Args:
            base: The folder; it is made when the first version is added.
            keep: Newest versions to keep, at least 2: servers hold on to the one before until they have loaded a new
                one. Folders without a manifest don't count and stay: someone else has put them there.
            rename: Whether folders can be renamed in one step at `base`.

        Raises:
            ValueError: If `keep` is less than 2.
        """
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 2:
            raise ValueError(f"keep must be at least 2, the new version and the one that is served, got {keep!r}")
        self.base = base
        self._keep = keep
        self._rename = rename

    def numbers(self) -> list[int]:
        """The versions that there are, ascending."""
        return sorted(number for number, _ in self._children()) if self.base.is_dir() else []

    def add(self, fill: Callable[[Path, int], None], protected: Collection[int] = ()) -> int:
        """Adds a version, then removes the oldest beyond the `keep` newest; returns its number.

        Args:
            fill: Called with a folder to make and the version's number; has to leave the whole version in that folder,
                on the disk. What it raises goes to the caller, and nothing was added.
            protected: Versions that aren't removed however old they are, such as those that labels are on.

        Raises:
            PublishError: Another process is adding a version, or there is an OSError: the disk is full, for example.
        """
        try:
            self.base.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.base / _LOCK_FILE)
            self._acquire(lock)
            try:
                return self._add_locked(fill, protected)
            finally:
                lock.release()
        except OSError as error:
            raise PublishError(
                f"{self.base}: the new version can't be written, nothing was published: {error}"
            ) from error

    def _acquire(self, lock: filelock.BaseFileLock) -> None:
        path = self.base / _LOCK_FILE
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise PublishError(
                f"another process is publishing to {self.base}; try again when it has ended (it holds {path})"
            ) from error
        except NotImplementedError as error:
            raise PublishError(
                f"{path}: this file system has no locks, so that a second writer couldn't be refused; publish to "
                f"another one and copy whole versions from there: {error}"
            ) from error

    def _add_locked(self, fill: Callable[[Path, int], None], protected: Collection[int]) -> int:
        version = max([self._last_version(), *self.numbers()]) + 1  # before an unfinished one is removed
        self._clean()
        if version > _LARGEST_VERSION:
            raise PublishError(
                f"{self.base} has a version {version - 1}, and no larger number can be served; rename that folder"
            )
        staging = Path(tempfile.mkdtemp(prefix=self._staging_prefix(), dir=self._staging_parent()))
        try:
            candidate = staging / str(version)
            fill(candidate, version)
            # Before the version appears: a crash in between costs a number, the other order could give one out twice.
            self._mark(version)
            if self._rename:
                candidate.rename(self.base / str(version))
            else:
                self._copy(candidate, self.base / str(version))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        # The version is there and whole, servers may be loading it: too late to fail.
        try:
            if self._rename:
                sync_folder(self.base)
        except OSError as error:
            _log.warning("version %d of %s may not survive a power failure: %s", version, self.base, error)
        try:
            self._retire(version, protected)
        except OSError as error:
            _log.warning("old versions of %s can't be removed: %s", self.base, error)
        return version

    def _children(self) -> list[tuple[int, Path]]:
        return [(int(path.name), path) for path in self.base.iterdir() if re.fullmatch(r"\d+", path.name, re.ASCII)]

    def _staging_parent(self) -> Path:
        return self.base if self._rename else Path(tempfile.gettempdir())

    def _staging_prefix(self) -> str:
        """Of this model alone, where several share a temporary folder."""
        if self._rename:
            return _STAGING_PREFIX
        return f"{_STAGING_PREFIX}{hashlib.sha256(os.fsencode(self.base.resolve())).hexdigest()[:16]}-"

    def _clean(self) -> None:
        """Removes what a killed process left; no other one can be writing now."""
        leftovers = {*self._staging_parent().glob(self._staging_prefix() + "*"), *self.base.glob(_STAGING_PREFIX + "*")}
        for leftover in leftovers:
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        for number, folder in self._children():
            begun = (folder / MANIFEST_FILE).is_file() or self._mark_of(number).exists()
            if begun and folder.is_dir() and not folder.is_symlink() and not (folder / GRAPH_FILE).exists():
                self._remove(folder)

    def _mark_of(self, version: int) -> Path:
        """An empty file whose name holds the number: it is there whole or not at all, without a rename."""
        return self.base / f"{_LAST_VERSION_FILE}-{version}"

    def _marks(self) -> dict[int, Path]:
        prefix = _LAST_VERSION_FILE + "-"
        found = {path.name.removeprefix(prefix): path for path in self.base.glob(prefix + "*")}
        return {int(number): path for number, path in found.items() if re.fullmatch(r"\d+", number, re.ASCII)}

    def _mark(self, version: int) -> None:
        if self._rename:
            replace_durably(self.base / _LAST_VERSION_FILE, str(version).encode())
            return
        older = self._marks()
        self._mark_of(version).touch()
        for path in older.values():
            path.unlink()

    def _last_version(self) -> int:
        path = self.base / _LAST_VERSION_FILE
        text = path.read_text() if path.exists() else "0"
        if not re.fullmatch(r"\d+", text, re.ASCII):
            raise PublishError(
                f"{path} must hold the number of the last version, it holds {text[:100]!r}; delete or mend it"
            )
        return max([int(text), *self._marks()])

    def _copy(self, candidate: Path, target: Path) -> None:
        """`candidate` as `target` without a rename, `saved_model.pb` last."""
        files = [path.relative_to(candidate) for path in sorted(candidate.rglob("*")) if path.is_file()]
        # The manifest first: it shows that a folder without a graph was begun here, and may be removed.
        files.sort(key=lambda file: file != Path(MANIFEST_FILE))
        part = self.base / f"{_STAGING_PREFIX}{GRAPH_FILE}"
        try:
            target.mkdir()
            for file in files:
                if file != Path(GRAPH_FILE):
                    (target / file).parent.mkdir(parents=True, exist_ok=True)
                    copy_file_durably(candidate / file, target / file)
            copy_file_durably(candidate / GRAPH_FILE, part)
            try:
                os.link(part, target / GRAPH_FILE)
            except OSError:  # no links: an object store then, where a file appears when it is whole
                copy_file_durably(part, target / GRAPH_FILE)
        except BaseException:
            (target / GRAPH_FILE).unlink(missing_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            raise
        finally:
            part.unlink(missing_ok=True)

    def _retire(self, newest: int, protected: Collection[int]) -> None:
        ours = sorted(
            number
            for number, folder in self._children()
            if number <= newest and folder.name == str(number) and _is_version(folder)
        )
        for number in ours[: -self._keep]:
            if number not in protected:
                self._remove(self.base / str(number))

    def _remove(self, folder: Path) -> None:
        """All of it at once, as a server sees it: half a version is nothing that it could load."""
        if self._rename:
            aside = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=self.base))
            folder.rename(aside / folder.name)
            shutil.rmtree(aside)
            return
        (folder / GRAPH_FILE).unlink(missing_ok=True)
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name != MANIFEST_FILE:
                child.unlink()
        shutil.rmtree(folder)  # the manifest last: see _clean


def _is_version(folder: Path) -> bool:
    """Whether it was published, and not put there by someone else."""
    return folder.is_dir() and not folder.is_symlink() and (folder / MANIFEST_FILE).is_file()
