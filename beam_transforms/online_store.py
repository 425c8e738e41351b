"""The online store: what a request needs to know about a user and the rooms, as of one time.

Needs numpy and the store's own library only, lmdb or redis: the serving client reads from here.
"""

import abc
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from beam_transforms.foresight_vectors import vector_records
from beam_transforms.schema import RankingSchema
from beam_transforms.served import Served
from beam_transforms.store_reader import StoreReader
from beam_transforms.window_write import Tables, WindowWrite
from beam_transforms.write_result import WriteResult

SLACK_MS = 6 * 3_600_000
"""Records are kept for so much longer than memory asks: a pipeline that stood still for less finds them again."""


def open_online_store(
    location: str | Path, readonly: bool = True, expected: RankingSchema | None = None
) -> "OnlineStore":
    """Opens a store of features.

    Args:
        location: Folder of an LMDB store, or `redis://[user:password@]host[:port][/db][?namespace=...&timeout_s=...]`
            (`rediss://` with TLS).
        readonly: Whether to open for reading only. A folder is created for writing, and must exist for reading.
        expected: The schema whose features the reader needs; by default it takes what is stored.

    Raises:
        ValueError: If the location isn't one, the store is empty or damaged when opened for reading, or it holds other
            features than `expected` says, which are named.
        OSError: If the store can't be reached.
    """
    text = str(location)
    if text.startswith(("redis://", "rediss://")):
        from beam_transforms.redis_store import RedisStore

        return RedisStore(text, readonly, expected)
    if "://" in text:
        raise ValueError(
            f"{text.partition('://')[0]}://...: no such online store; give a folder or redis://host:port/db"
        )
    from beam_transforms.lmdb_store import LmdbStore

    return LmdbStore(Path(location), readonly, expected)


class OnlineStore(StoreReader):
    """Stored features and foresight vectors, for any number of readers; open one with `open_online_store`.

    There is one record for each key of `RankingSchema.stored`, and a head: the time as of which the features hold, the
    live rooms, the schema. Records hold what stays true while time passes (see `stored_history`), so that a window
    only writes what changed in it. One writer at a time writes windows (`write`).

    Another one, the room-side job, may write beside it: foresight vectors, each under a version of the model and a
    room, and which versions are served (`set_served`). Neither holds up or undoes what the other does, but that
    replacing everything (`write(..., replace=True)`) drops all vectors: they were made of what is gone. The versions
    stay served then, and answer without vectors until these are made again.
    """

    def __init__(self, location: str, readonly: bool, expected: RankingSchema | None) -> None:
        super().__init__(location, expected)
        self._readonly = readonly

    def write(
        self, schema: RankingSchema, as_of_ms: int, tables: Tables, live_ids: np.ndarray, replace: bool = False
    ) -> WriteResult:
        """Writes the records that changed in a window and moves the head to the window's end.

        Writing a window again changes nothing, and a window earlier than the head is skipped: what is sent again after
        a crash leaves the store as it would be without the crash.

        Args:
            schema: What is stored; that of the store unless it is replaced.
            as_of_ms: End of the window: the time at which the features hold.
            tables: Key columns -> batches of columns: the key columns and those of `schema.stored` for that key.
            live_ids: All rooms that are live, int64 of shape (R,). Each needs a record, from now or from before.
            replace: Whether to remove everything else, as a batch run does.

        Raises:
            ValueError: If the store holds other features, a column is missing, a live room has no record, the store
                was opened for reading, or it is to be replaced and holds later features.
            OSError: If the store is full, or can't be reached. Its head is still the old one.
        """
        self._check_writable()
        return self._write(WindowWrite(schema, as_of_ms, tables, live_ids, replace))

    def write_foresight(
        self,
        version: int,
        live_ids: np.ndarray,
        vectors: np.ndarray,
        as_of_ms: int,
        generation: str | None = None,
    ) -> None:
        """Stores the foresight vectors of some rooms under a version, in place of earlier ones.

        Nobody reads them before `set_served` says that the version is served. A vector lives until its version is
        forgotten or its room has been over for long.

        Args:
            version: The version of the model that computed them.
            live_ids: The rooms, int64 of shape (R,).
            vectors: float32 of shape (R, F).
            as_of_ms: End of the window as of which the rooms' features were read.
            generation: The filling that they were read from (`StoredRooms.generation`): if the store was replaced since
                then, nothing is written. None takes whichever is there.

        Raises:
            ValueError: If the shapes don't fit, the version is served with another width, the store is empty, or it
                was opened for reading.
            OSError: If the store is full, or can't be reached.
        """
        self._check_writable()
        live_ids, vectors = np.asarray(live_ids, dtype=np.int64), np.asarray(vectors, dtype=np.float32)
        if live_ids.ndim != 1 or vectors.shape != (len(live_ids), *vectors.shape[1:2]) or vectors.ndim != 2:
            raise ValueError(
                f"foresight vectors of version {version} must have the shape (rooms, F), got {vectors.shape} for rooms "
                f"of shape {live_ids.shape}"
            )
        size = self.served.foresight_sizes.get(version)
        if size is not None and size != vectors.shape[1]:
            raise ValueError(
                f"{self.location}: version {version} is served with foresight vectors of width {size}, got width "
                f"{vectors.shape[1]}; another model needs another version"
            )
        self._write_foresight(version, live_ids, vector_records(vectors, int(as_of_ms)), generation)

    def forget_foresight(self, version: int) -> int:
        """Removes all vectors of a version; returns how many there were.

        Raises:
            ValueError: If the version has a label, or the store was opened for reading.
            OSError: If the store can't be reached.
        """
        self._check_writable()
        labels = [label for label, served in self.served.labels.items() if served == version]
        if labels:
            raise ValueError(f"{self.location}: version {version} is served under {labels}; move the labels first")
        return self._forget_foresight(int(version))

    def set_served(self, labels: Mapping[str, int], foresight_sizes: Mapping[int, int]) -> None:
        """Says what is served from now on, in place of what was said before, for all readers at once.

        Write the vectors of a version before, and forget those of others after it: so readers have a version and its
        vectors at any time.

        Args:
            labels: Label -> version.
            foresight_sizes: Version -> width of its foresight vectors, 0 for none; of each version with a label, and
                of others whose vectors are still kept.

        Raises:
            ValueError: As `Served`, or the store was opened for reading.
            OSError: If the store is full, or can't be reached.
        """
        self._check_writable()
        self._set_served(
            Served(
                {str(label): int(version) for label, version in labels.items()},
                {int(version): int(size) for version, size in foresight_sizes.items()},
            )
        )

    def _check_writable(self) -> None:
        if self._readonly:
            raise ValueError(f"{self.location} was opened for reading; open it with readonly=False to write")

    @abc.abstractmethod
    def _write(self, write: WindowWrite) -> WriteResult:
        """Does what `write` promises."""

    @abc.abstractmethod
    def _write_foresight(
        self, version: int, live_ids: np.ndarray, records: list[bytes], generation: str | None
    ) -> None:
        """Does what `write_foresight` promises."""

    @abc.abstractmethod
    def _forget_foresight(self, version: int) -> int:
        """Does what `forget_foresight` promises."""

    @abc.abstractmethod
    def _set_served(self, served: Served) -> None:
        """Does what `set_served` promises."""
