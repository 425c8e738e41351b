"""LmdbStore: the online store as a folder."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import lmdb
import numpy as np

from beam_transforms.foresight_vectors import vector_keys, vector_prefix
from beam_transforms.lmdb_file import READERS, LmdbFile
from beam_transforms.lmdb_sweep import PLACE, RECORD, VECTOR, sweep
from beam_transforms.online_store import OnlineStore
from beam_transforms.schema import RankingSchema
from beam_transforms.served import Served
from beam_transforms.store_head import StoreHead
from beam_transforms.store_snapshot import StoreSnapshot
from beam_transforms.unusable_store_error import UnusableStoreError
from beam_transforms.wanted_records import WantedRecords
from beam_transforms.window_write import WindowWrite
from beam_transforms.write_result import WriteResult

_MAP_SIZE = 16 * 2**30  # an upper bound of the file's size; the file grows only as it is filled
_SWEPT = 4096  # records looked at a write, beside as many as it wrote
_STAMP, _HEAD, _SERVED = b"\x00stamp", b"\x00head", b"\x00served"
_PASSING: dict[type[lmdb.Error], str] = {
    lmdb.ReadersFullError: f"too many readers, there may be {READERS} at once; use fewer threads or processes",
    lmdb.MapResizedError: "another process let it grow beyond this one's map size; open it again with that one's",
    lmdb.MemoryError: "there isn't enough memory to map it",
}


class LmdbStore(OnlineStore):
    """Stored features in an LMDB folder: one writer at a time, any number of reading processes.

    A window is written in one transaction: a reader sees the old content or the new one, whole, and so does whoever
    comes after a writer that was killed. A second writer waits for the first, be it of windows or of foresight
    vectors, in this process or another. Expired records and vectors are removed a few at a time with each window, so
    the file stays bounded.

    A folder that was removed is an error within a second; one that was made anew there is gone on with.

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
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(
                f"{path}: no online store can be here, as {error.filename} isn't a folder; give a folder or "
                "redis://host:port/db"
            ) from error
        self._known: tuple[bytes, StoreHead] | None = None
        self._known_served: tuple[bytes | None, Served] = (None, Served())
        # A reader that may write, too, shares the environment with a writer in the same process.
        only = readonly and not (os.access(file, os.W_OK) and os.access(path, os.W_OK))
        with self._errors():
            self._file = LmdbFile(path, only, map_size)
        try:
            if readonly:
                self._head()
            else:
                with self._errors(), self._file.use() as environment:
                    environment.reader_check()  # a reader that was killed would keep old pages for ever
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    @property
    def served(self) -> Served:
        with self._errors(), self._file.use() as environment, environment.begin() as transaction:
            return self._stored_served(transaction)

    @property
    def foresight_versions(self) -> tuple[int, ...]:
        versions: list[int] = []
        with self._errors(), self._file.use() as environment, environment.begin() as transaction:
            cursor, place = transaction.cursor(), VECTOR
            while cursor.set_range(place) and cursor.key()[:1] == VECTOR:
                versions.append(int.from_bytes(cursor.key()[1:9], "big"))
                place = VECTOR + vector_prefix(versions[-1] + 1)
        return tuple(versions)

    def _write(self, write: WindowWrite) -> WriteResult:
        with self._errors(writing=True), self._file.use() as environment, environment.begin(write=True) as transaction:
            previous = self._stored_head(transaction)
            if write.is_replay(previous, self.location):
                return WriteResult(skipped=True)
            served = transaction.get(_SERVED)
            removed = 0
            if write.replace:
                heads = sum(transaction.get(key) is not None for key in (_STAMP, _HEAD, _SERVED, PLACE))
                removed = transaction.stat()["entries"] - heads
                transaction.drop(environment.open_db(txn=transaction), delete=False)
                if served is not None:
                    transaction.put(_SERVED, served)
            cursor = transaction.cursor()
            for _, keys, records in write.records():
                order = sorted(range(len(keys)), key=keys.__getitem__)
                cursor.putmulti([(RECORD + keys[row], records[row]) for row in order])
            generation = "" if previous is None else previous.generation
            generation = secrets.token_hex(4) if write.replace else generation
            head = write.head(previous, lambda keys: _get(transaction, RECORD, keys), generation)
            if previous is None or head.as_of_ms > previous.as_of_ms:  # not when a window is written again
                removed += sweep(transaction, head, self._stored_served(transaction), _SWEPT + write.count)
            transaction.put(_STAMP, head.stamp)
            transaction.put(_HEAD, head.data)
            return WriteResult(skipped=False, records=write.count, removed=removed)

    def _write_foresight(
        self, version: int, live_ids: np.ndarray, records: list[bytes], generation: str | None
    ) -> None:
        if not 0 <= version < 2**63:
            raise ValueError(f"{self.location}: a version must be from 0 to 2^63 - 1, got {version}")
        keys = vector_keys(version, live_ids)
        with self._errors(writing=True), self._file.use() as environment, environment.begin(write=True) as transaction:
            if generation not in (None, self._checked_head(transaction).generation):
                return  # replaced meanwhile: these are of what is gone
            order = sorted(range(len(keys)), key=keys.__getitem__)
            transaction.cursor().putmulti([(VECTOR + keys[row], records[row]) for row in order])

    def _forget_foresight(self, version: int) -> int:
        prefix, removed = VECTOR + vector_prefix(version), 0
        with self._errors(writing=True), self._file.use() as environment, environment.begin(write=True) as transaction:
            cursor = transaction.cursor()
            while cursor.set_range(prefix) and cursor.key().startswith(prefix):
                removed += cursor.delete()
        return removed

    def _set_served(self, served: Served) -> None:
        with self._errors(writing=True), self._file.use() as environment, environment.begin(write=True) as transaction:
            transaction.put(_SERVED, served.data)

    def _read(self, wanted: Callable[[StoreHead, Served], WantedRecords]) -> StoreSnapshot:
        with self._errors(), self._file.use() as environment, environment.begin() as transaction:
            head, served = self._checked_head(transaction), self._stored_served(transaction)
            asked = wanted(head, served)
            vectors = [] if asked.version is None else vector_keys(asked.version, asked.live_ids)
            records = _get(transaction, RECORD, asked.keys)
            return StoreSnapshot(head, served, records, _get(transaction, VECTOR, vectors))

    def _checked_head(self, transaction: lmdb.Transaction) -> StoreHead:
        head = self._stored_head(transaction)
        if head is None:
            raise UnusableStoreError(
                f"{self.location}: the online store is empty; its writing was not finished: write it again"
            )
        return head

    def _stored_head(self, transaction: lmdb.Transaction) -> StoreHead | None:
        stamp = transaction.get(_STAMP)
        if stamp is None:
            return None
        known = self._known
        if known is None or known[0] != stamp:
            known = (bytes(stamp), self._parse_head(bytes(transaction.get(_HEAD, b""))))
            self._known = known
        return known[1]

    def _stored_served(self, transaction: lmdb.Transaction) -> Served:
        found, known = transaction.get(_SERVED), self._known_served
        data = None if found is None else bytes(found)
        if known[0] != data:
            known = self._known_served = (data, self._parse_served(data))
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
        except tuple(_PASSING) as error:
            raise OSError(f"{self.location}: the online store can't be used now: {_PASSING[type(error)]}") from error
        except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError) as error:
            raise UnusableStoreError(f"{self.location}: {_damaged(error)}") from error
        except lmdb.Error as error:
            if not writing:
                raise UnusableStoreError(f"{self.location}: {_damaged(error)}") from error
            raise OSError(
                f"{self.location}: the online store can't be written ({error}); is the disk full? It is unchanged"
            ) from error


def _damaged(error: lmdb.Error) -> str:
    return f"not a readable online store ({error}); write it again from the beginning"


def _get(transaction: lmdb.Transaction, kind: bytes, keys: Sequence[bytes]) -> list[bytes | None]:
    get = cast(Callable[[bytes], bytes | None], transaction.get)  # bytes, as the transaction isn't one of buffers
    return [get(kind + key) for key in keys]  # faster than a cursor's getmulti
