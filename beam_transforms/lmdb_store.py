"""LmdbStore: the online store as a folder."""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import lmdb

from beam_transforms.online_store import SLACK_MS, OnlineStore
from beam_transforms.record_layout import RecordLayout
from beam_transforms.schema import RankingSchema
from beam_transforms.store_head import StoreHead
from beam_transforms.window_write import WindowWrite
from beam_transforms.write_result import WriteResult

_MAP_SIZE = 16 * 2**30  # an upper bound of the file's size; the file grows only as it is filled
_READERS = 1024
_SWEPT = 4096  # records looked at a write, beside as many as it wrote
_STAMP, _HEAD, _PLACE, _RECORD = b"\x00stamp", b"\x00head", b"\x00swept", b"\x01"


@dataclasses.dataclass
class _Shared:
    """An environment and how many stores use it: LMDB allows one a process."""

    name: tuple[int, str]
    environment: lmdb.Environment
    inode: int
    users: int = 0


_open: dict[tuple[int, str], _Shared] = {}  # by process and path
_opening = threading.Lock()


class LmdbStore(OnlineStore):
    """Stored features in an LMDB folder: one writer at a time, any number of reading processes.

    A window is written in one transaction: a reader sees the old content or the new one, whole, and so does whoever
    comes after a writer that was killed. A second writer waits for the first. Expired records are removed a few at a
    time with each window, so the file stays bounded.

    Args:
        path: Folder of the store.
        readonly, expected: See `open_online_store`.
        map_size: Upper bound of the file in bytes.
    """

    def __init__(
        self, path: Path, readonly: bool = True, expected: RankingSchema | None = None, map_size: int = _MAP_SIZE
    ) -> None:
        super().__init__(str(path), readonly, expected)
        file = path / "data.mdb"
        if readonly and not file.exists():
            raise ValueError(f"{path}: no online store here; `foresight examples --store ...` writes one")
        if readonly and not file.stat().st_size:
            raise ValueError(f"{path}: the online store is empty; its writing was not finished: write it again")
        path.mkdir(parents=True, exist_ok=True)
        self._known: tuple[bytes, StoreHead] | None = None
        # A reader that may write, too, shares the environment with a writer in the same process.
        only = readonly and not (os.access(file, os.W_OK) and os.access(path, os.W_OK))
        with self._errors():
            self._shared = _acquire(path, only, map_size)
        self._environment = self._shared.environment
        self._closed = False
        try:
            if readonly:
                self._head()
            else:
                self._environment.reader_check()  # a reader that was killed would keep old pages for ever
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _release(self._shared)

    def _write(self, write: WindowWrite) -> WriteResult:
        with self._errors(writing=True), self._environment.begin(write=True) as transaction:
            previous = self._stored_head(transaction)
            if write.is_replay(previous, self.location):
                return WriteResult(skipped=True)
            removed = 0
            if write.replace:
                removed = max(transaction.stat()["entries"] - 3, 0)
                transaction.drop(self._environment.open_db(txn=transaction), delete=False)
            cursor = transaction.cursor()
            for _, keys, records in write.records():
                order = sorted(range(len(keys)), key=keys.__getitem__)
                cursor.putmulti([(_RECORD + keys[row], records[row]) for row in order])
            head = write.head(previous, lambda keys: _get(transaction, keys))
            if previous is None or head.as_of_ms > previous.as_of_ms:  # not when a window is written again
                removed += _sweep(transaction, head, _SWEPT + write.count)
            transaction.put(_STAMP, head.stamp)
            transaction.put(_HEAD, head.data)
            return WriteResult(skipped=False, records=write.count, removed=removed)

    def _read(self, wanted: Callable[[StoreHead], list[bytes]]) -> tuple[StoreHead, list[bytes | None]]:
        with self._errors(), self._environment.begin() as transaction:
            head = self._stored_head(transaction)
            if head is None:
                raise ValueError(
                    f"{self.location}: the online store is empty; its writing was not finished: write it again"
                )
            return head, _get(transaction, wanted(head))

    def _stored_head(self, transaction: lmdb.Transaction) -> StoreHead | None:
        stamp = transaction.get(_STAMP)
        if stamp is None:
            return None
        known = self._known
        if known is None or known[0] != stamp:
            known = (bytes(stamp), self._parse_head(bytes(transaction.get(_HEAD, b""))))
            self._known = known
        return known[1]

    @contextlib.contextmanager
    def _errors(self, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except lmdb.MapFullError as error:
            raise OSError(
                f"{self.location}: the online store is full (map size reached); its content is unchanged. Remove it "
                "and write it again, or store fewer users"
            ) from error
        except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError) as error:
            raise ValueError(f"{self.location}: {_damaged(error)}") from error
        except lmdb.Error as error:
            if not writing:
                raise ValueError(f"{self.location}: {_damaged(error)}") from error
            raise OSError(
                f"{self.location}: the online store can't be written ({error}); is the disk full? It is unchanged"
            ) from error


def _damaged(error: lmdb.Error) -> str:
    return f"not a readable online store ({error}); write it again from the beginning"


def _get(transaction: lmdb.Transaction, keys: list[bytes]) -> list[bytes | None]:
    found: dict[Any, Any] = dict(transaction.cursor().getmulti([_RECORD + key for key in keys]))
    return [found.get(_RECORD + key) for key in keys]


def _sweep(transaction: lmdb.Transaction, head: StoreHead, steps: int) -> int:
    """Removes expired records among the next `steps`, going on where the last sweep stopped."""
    by_version: dict[bytes, RecordLayout] = {layout.version: layout for layout in head.layouts.values()}
    live = set(head.live_ids.tolist())
    expired = []
    cursor = transaction.cursor()
    place = _RECORD
    if cursor.set_range(transaction.get(_PLACE, _RECORD)):
        for key, record in cast(Iterator[tuple[bytes, bytes]], cursor.iternext()):
            place = key
            if not steps:
                break
            steps -= 1
            layout = by_version.get(key[1:9])
            if layout is None or (
                layout.expired(record, head.as_of_ms, SLACK_MS)
                and not (layout.of_rooms and layout.first_id(key[1:]) in live)
            ):
                expired.append(key)
    for key in expired:
        transaction.delete(key)
    transaction.put(_PLACE, _RECORD if steps else place)
    return len(expired)


def _acquire(path: Path, readonly: bool, map_size: int) -> _Shared:
    name, file = (os.getpid(), str(path.resolve())), path / "data.mdb"
    with _opening:
        shared = _open.get(name)
        if shared is None or not file.exists() or shared.inode != file.stat().st_ino:  # else removed and made anew
            environment = lmdb.open(str(path), map_size=map_size, readonly=readonly, max_readers=_READERS)
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
