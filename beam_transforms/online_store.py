"""The online store: what a request needs to know about a user and the rooms, as of one time.

Needs numpy and the store's own library only, lmdb or redis: the serving client reads from here.
"""

import abc
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from beam_transforms.context import context_features
from beam_transforms.record_layout import RecordLayout, check_same, written_ms
from beam_transforms.schema import RankingSchema
from beam_transforms.store_head import StoreHead
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


class OnlineStore(abc.ABC):
    """Stored features: one writer at a time, any number of readers; open one with `open_online_store`.

    There is one record for each key of `RankingSchema.stored`, and a head: the time as of which the features hold, the
    live rooms, the schema. Records hold what stays true while time passes (see `stored_history`), so that a window
    only writes what changed in it.
    """

    def __init__(self, location: str, readonly: bool, expected: RankingSchema | None) -> None:
        self.location = location
        self._readonly, self._expected = readonly, expected

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
        if self._readonly:
            raise ValueError(f"{self.location} was opened for reading; open it with readonly=False to write")
        return self._write(WindowWrite(schema, as_of_ms, tables, live_ids, replace))

    @property
    def schema(self) -> RankingSchema:
        return self._head().schema

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.schema.task_names

    @property
    def as_of_ms(self) -> int:
        return self._head().as_of_ms

    @property
    def live_ids(self) -> np.ndarray:
        """Rooms that are live, int64, ascending."""
        return self._head().live_ids.copy()

    def request(
        self, user_id: int, live_ids: Sequence[int] | np.ndarray | None = None, now_ms: int | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The inputs of the signature `serving_default` for one user and R rooms.

        A user, or a pair of user and author, that was never seen has an empty history.

        Args:
            user_id: The user.
            live_ids: The rooms; all that are live by default.
            now_ms: Time of the request, which the feature `context` is computed at; the store's `as_of_ms` by default.

        Returns:
            The rooms, int64 of shape (R,), and the features by name, each of shape (R, ...), in the order of
            `schema.inputs`.

        Raises:
            ValueError: If a room isn't live.
            OSError: If the store can't be reached.
        """
        ids: dict[str, np.ndarray] = {}
        parts: list[tuple[RecordLayout, int]] = []

        def wanted(head: StoreHead) -> list[bytes]:
            rooms = head.live_ids if live_ids is None else np.array(live_ids, dtype=np.int64).reshape(-1)
            ids["user_id"] = np.full(len(rooms), user_id, dtype=np.int64)
            ids["live_id"], ids["author_id"] = rooms.copy(), head.authors(rooms)
            parts.clear()
            keys: list[bytes] = []
            for layout in head.layouts.values():
                rows = 1 if layout.key == ("user_id",) else len(rooms)
                keys += layout.keys({name: ids[name][:rows] for name in layout.key} if len(rooms) else ids)
                parts.append((layout, rows if len(rooms) else 0))
            return keys

        head, records = self._read(wanted)
        rooms = ids["live_id"]
        columns, begin = dict(ids), 0
        for layout, rows in parts:
            here = records[begin : begin + rows]
            begin += rows
            if layout.of_rooms and None in here:
                room = int(rooms[here.index(None)])
                raise ValueError(
                    f"{self.location}: the record of live room {room} is gone; it expired because nothing was written "
                    "for long, or was evicted: write the store again"
                )
            found = layout.columns(here, head.as_of_ms)
            if rows != len(rooms):
                found = {name: np.repeat(values, len(rooms), axis=0) for name, values in found.items()}
            columns |= found
        now = np.full(len(rooms), head.as_of_ms if now_ms is None else now_ms, dtype=np.int64)
        columns["context"] = context_features(columns["opened_ms"], now)
        lacking = [feature.name for feature in head.inputs if feature.name not in columns]
        if lacking:
            raise ValueError(f"{self.location}: the inputs {lacking} of schema {head.schema.name!r} aren't stored")
        return rooms, {feature.name: columns[feature.name] for feature in head.inputs}

    def describe(self, live_id: int | None = None, user_id: int | None = None) -> dict[str, Any]:
        """What is stored of a room, of a user, or of both and the pair.

        Returns:
            `as_of_ms`, `live_rooms` (their number), `schema` (the RankingSchema), `live` (of the room; None without
            one) and `records`: for each key that can be told, `key` (column -> id), `written_ms` (None where there is
            no record) and `features` (name -> array, as of `as_of_ms`), with the names of their entries in `entries`.
        """
        room = np.array([] if live_id is None else [live_id], dtype=np.int64)
        ids = {} if live_id is None else {"live_id": room}
        ids |= {} if user_id is None else {"user_id": np.array([user_id], dtype=np.int64)}
        head, (record,) = self._read(lambda head: head.layouts[("live_id",)].keys({"live_id": room}) or [b""])
        if live_id is not None and record is not None:
            ids["author_id"] = head.layouts[("live_id",)].columns([record], head.as_of_ms)["author_id"].reshape(-1)
        parts: list[RecordLayout] = []

        def wanted(head: StoreHead) -> list[bytes]:
            parts[:] = [layout for layout in head.layouts.values() if set(layout.key) <= set(ids)]
            return [key for layout in parts for key in layout.keys(ids)]

        head, records = self._read(wanted)
        return {
            "as_of_ms": head.as_of_ms,
            "live_rooms": len(head.live_ids),
            "schema": head.schema,
            "live": None if live_id is None else bool(head.find(room)[1][0]),
            "records": [
                {
                    "key": {name: int(ids[name][0]) for name in layout.key},
                    "written_ms": None if record is None else written_ms(record),
                    "features": {n: v[0] for n, v in layout.columns([record], head.as_of_ms).items()} if record else {},
                    "entries": {name: layout.entry_names(name) for name in layout.contents},
                }
                for layout, record in zip(parts, records, strict=True)
            ],
        }

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back what the store holds; it can't be used any more."""

    def __enter__(self) -> "OnlineStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _head(self) -> StoreHead:
        return self._read(lambda head: [])[0]

    @abc.abstractmethod
    def _write(self, write: WindowWrite) -> WriteResult:
        """Does what `write` promises."""

    @abc.abstractmethod
    def _read(self, wanted: Callable[[StoreHead], list[bytes]]) -> tuple[StoreHead, list[bytes | None]]:
        """The head, and the records whose keys `wanted` (called once or more) tells for that head."""

    def _parse_head(self, data: bytes) -> StoreHead:
        head = StoreHead.parse(data, self.location)
        if self._expected is not None:
            check_same(self._expected, head.schema, self.location)
        return head
