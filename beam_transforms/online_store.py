"""The online store: what a request needs to know about a user and the rooms, as of one time.

Needs numpy and lmdb only: the serving client reads from here.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import lmdb
import numpy as np

from beam_transforms.context import context_features
from beam_transforms.schema import PADDING_ID, Feature, RankingSchema, schema_from_json, schema_to_json

_MAP_SIZE = 16 * 2**30  # an upper bound of the file's size; the file grows only as it is filled
_HEAD = b"head"


class OnlineStore:
    """Stored features in an LMDB folder: one writer, any number of reading processes.

    One record for each key of `RankingSchema.stored`: the little-endian bytes of its features, in that order.

    Args:
        path: Folder of the store. It is created for writing, and must exist for reading.
        readonly: Whether to open for reading only.

    Raises:
        ValueError: If `readonly` and there is no filled store at `path`, or it is damaged.
    """

    def __init__(self, path: Path, readonly: bool = True) -> None:
        path = Path(path)
        if readonly and not (path / "data.mdb").exists():
            raise ValueError(f"{path}: no online store here; `foresight examples --store ...` writes one")
        path.mkdir(parents=True, exist_ok=True)
        self._parsed: tuple[bytes | None, dict] = (None, {})
        try:
            self._environment = lmdb.open(str(path), map_size=_MAP_SIZE, readonly=readonly)
            with self._environment.begin() as transaction:
                filled = transaction.get(_HEAD) is not None
        except lmdb.Error as error:
            raise ValueError(f"{path}: not a readable online store ({error}); write it again") from error
        if readonly and not filled:
            raise ValueError(f"{path}: the online store is empty; its writing was not finished: write it again")

    def close(self) -> None:
        self._environment.close()

    def replace(
        self,
        schema: RankingSchema,
        as_of_ms: int,
        tables: dict[tuple[str, ...], list[dict[str, np.ndarray]]],
    ) -> None:
        """Replaces everything, in one transaction: a reader sees the old content or the new one, whole.

        Args:
            tables: Key columns -> batches of columns, the key columns and those of `schema.stored` for that key. The
                rooms under ("live_id",) are those that are live.
            as_of_ms: The time at which the features hold.
        """
        with self._environment.begin(write=True) as transaction:
            transaction.drop(self._environment.open_db(txn=transaction), delete=False)
            live_ids: list[int] = []
            for key, batches in tables.items():
                for columns in batches:
                    for record_key, record in _records(key, schema.stored[key], columns):
                        transaction.put(record_key, record)
                    if key == ("live_id",):
                        live_ids += columns["live_id"].tolist()
            head = {"schema": schema_to_json(schema), "as_of_ms": as_of_ms, "live_ids": sorted(live_ids)}
            transaction.put(_HEAD, json.dumps(head).encode())

    @property
    def schema(self) -> RankingSchema:
        return schema_from_json(self._head()["schema"])

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.schema.task_names

    @property
    def as_of_ms(self) -> int:
        return self._head()["as_of_ms"]

    @property
    def live_ids(self) -> np.ndarray:
        """Rooms that are live, int64, ascending."""
        return np.array(self._head()["live_ids"], dtype=np.int64)

    def request(self, user_id: int, live_ids: Sequence[int] | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The inputs of the signature `serving_default` for one user and R rooms.

        A user, or a pair of user and author, that was never seen has an empty history.

        Args:
            live_ids: The rooms; all that are live by default.

        Returns:
            The rooms, int64 of shape (R,), and the features by name, each of shape (R, ...).

        Raises:
            ValueError: If a room isn't live.
        """
        head = self._head()
        schema = schema_from_json(head["schema"])
        rooms = np.array(head["live_ids"] if live_ids is None else live_ids, dtype=np.int64)
        columns: dict[str, np.ndarray] = {"user_id": np.full(len(rooms), user_id, dtype=np.int64), "live_id": rooms}
        with self._environment.begin(buffers=True) as transaction:
            for key, features in schema.stored.items():  # the rooms come first: they tell the authors
                defaults = None if key == ("live_id",) else _defaults(schema, features)
                columns |= _read(transaction, key, features, columns, defaults)
        now = np.full(len(rooms), head["as_of_ms"], dtype=np.int64)
        columns["context"] = context_features(columns["opened_ms"], now)
        return rooms, {feature.name: columns[feature.name] for feature in schema.inputs}

    def _head(self) -> dict:
        with self._environment.begin() as transaction:
            head = transaction.get(_HEAD, b"{}")
        if head != self._parsed[0]:
            self._parsed = (head, json.loads(head))
        return self._parsed[1]


def _layout(features: Sequence[Feature]) -> np.dtype:
    return np.dtype([(feature.name, np.dtype(feature.dtype).newbyteorder("<"), feature.shape) for feature in features])


def _record_keys(key: tuple[str, ...], columns: dict[str, np.ndarray]) -> list[bytes]:
    name = "/".join(key).encode() + b"/"
    ids = np.stack([columns[column] for column in key], axis=1).astype(">i8")
    return [name + row.tobytes() for row in ids]


def _records(key: tuple[str, ...], features: Sequence[Feature], columns: dict[str, np.ndarray]):
    values = np.zeros(len(columns[key[0]]), dtype=_layout(features))
    for feature in features:
        values[feature.name] = columns[feature.name].reshape(-1, *feature.shape)
    return zip(_record_keys(key, columns), (value.tobytes() for value in values), strict=True)


def _defaults(schema: RankingSchema, features: Sequence[Feature]) -> bytes:
    empty = {history.feature_name: history.empty for history in schema.histories}
    value = np.zeros(1, dtype=_layout(features))
    for feature in features:
        value[feature.name] = empty.get(feature.name, PADDING_ID)
    return value.tobytes()


def _read(
    transaction: lmdb.Transaction,
    key: tuple[str, ...],
    features: Sequence[Feature],
    columns: dict[str, np.ndarray],
    default: bytes | None,
) -> dict[str, np.ndarray]:
    layout = _layout(features)
    records = []
    for row, record_key in enumerate(_record_keys(key, columns)):
        record = transaction.get(record_key, default)
        if record is None:
            ids = {column: int(columns[column][row]) for column in key}
            raise ValueError(f"no features stored for {ids}: the room isn't live; ask for rooms of `live_ids`")
        if len(record) != layout.itemsize:
            raise ValueError(
                f"{key}: a stored record has {len(record)} bytes, the schema says "
                f"{layout.itemsize}; write the store again"
            )
        records.append(bytes(record))
    values = np.frombuffer(b"".join(records), dtype=layout)
    return {feature.name: np.ascontiguousarray(values[feature.name]) for feature in features}
