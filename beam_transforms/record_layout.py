"""RecordLayout: how the features under one key become the bytes of a record, and back."""

import functools
import hashlib
import json
import types
from collections.abc import Mapping, Sequence

import numpy as np

from beam_transforms.schema import (
    ENTERED_LAST_MS,
    MEMORY_MS,
    PADDING_ID,
    ROOM_MEMORY_MS,
    Feature,
    HistoryCounts,
    RankingSchema,
)
from beam_transforms.stored_history import NEVER_MS, remembered_authors, with_ages

_WRITTEN = "written_ms"
ID_COLUMNS = ("user_id", "live_id", "author_id")


class RecordLayout:
    """One table of the store: the records under one kind of key.

    A record is the time as of which it was written, int64, and behind it the little-endian bytes of the stored
    features. Its key begins with the layout's version, so that a reader can't misread a record of other features.

    Args:
        schema: Says what is stored.
        key: One of `schema.stored`; made of user_id, live_id and author_id.

    Attributes:
        version: 8 bytes, a hash of the key's columns and of the features' names, types, shapes and entries.
        memory_ms: A record that was written longer ago stands for nothing that is remembered.
        contents: Feature -> its type, shape and the names of its entries, in words.

    Raises:
        ValueError: If the key has another column.
    """

    def __init__(self, schema: RankingSchema, key: tuple[str, ...]) -> None:
        if not key or not set(key) <= set(ID_COLUMNS):
            raise ValueError(f"the online store has keys made of {ID_COLUMNS}, got {key}")
        self.key, self.features = key, schema.stored[key]
        self.memory_ms = ROOM_MEMORY_MS if "live_id" in key else MEMORY_MS
        self.of_rooms = key == ("live_id",)
        self.contents = {feature.name: _content(schema, feature) for feature in self.features}
        self.version = hashlib.sha256(json.dumps([key, list(self.contents.items())]).encode()).digest()[:8]
        self._histories = tuple(history for history in schema.histories if history.key == key)
        fields = [(f.name, np.dtype(f.dtype).newbyteorder("<"), f.shape) for f in self.features]
        self._dtype = np.dtype([(_WRITTEN, "<i8"), *fields])
        self._missing = self._empty_record()

    def keys(self, ids: Mapping[str, np.ndarray]) -> list[bytes]:
        """The records' keys: the version, then the ids, big-endian."""
        table = np.stack([np.asarray(ids[column], dtype=np.int64) for column in self.key], axis=1).astype(">i8")
        return [self.version + row for row in _rows(table.tobytes(), 8 * len(self.key))]

    def first_id(self, record_key: bytes) -> int:
        """The first id of a record's key."""
        return int.from_bytes(record_key[8:16], "big", signed=True)

    def records(self, columns: Mapping[str, np.ndarray], as_of_ms: int) -> list[bytes]:
        """The records of rows of stored features.

        Raises:
            ValueError: If a feature is missing, or has another number of rows or another width; it is named.
        """
        needed = [*self.key, *(feature.name for feature in self.features)]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise ValueError(f"the table {self.key} lacks the columns {missing}; it has {sorted(columns)}")
        rows = len(columns[self.key[0]])
        values = np.zeros(rows, dtype=self._dtype)
        values[_WRITTEN] = as_of_ms
        for feature in self.features:
            column = np.asarray(columns[feature.name])
            if len(column) != rows or column.size != rows * feature.size:
                raise ValueError(
                    f"the table {self.key}: {feature.name!r} has shape {column.shape}, expected {rows} rows of shape "
                    f"{feature.shape}"
                )
            values[feature.name] = column.reshape(rows, *feature.shape)
        return _rows(values.tobytes(), self._dtype.itemsize)

    def columns(self, records: Sequence[bytes | None], as_of_ms: int) -> dict[str, np.ndarray]:
        """The features as of a time; where there is no record, or one from beyond memory, those of an empty history.

        Of rooms every record stands: whether a room is live says the store's head.

        Returns:
            Feature -> array of shape (rows, ...); ages of histories are as of `as_of_ms`.

        Raises:
            ValueError: If a record's length isn't the layout's.
        """
        joined = b"".join(self._missing if record is None else record for record in records)
        sizes = {len(record) for record in records if record is not None} - {self._dtype.itemsize}
        if sizes:
            raise ValueError(
                f"a record under {self.key} has {min(sizes)} bytes, expected {self._dtype.itemsize} for the "
                f"features {list(self.contents)}; the store is damaged: write it again"
            )
        values = np.frombuffer(joined, dtype=self._dtype)
        if not self.of_rooms:
            expired = as_of_ms - values[_WRITTEN] > self.memory_ms
            if expired.any():
                values = np.where(expired, np.frombuffer(self._missing, dtype=self._dtype), values)
        columns = {feature.name: np.ascontiguousarray(values[feature.name]) for feature in self.features}
        for history in self._histories:
            columns[history.feature_name] = with_ages(history, columns, as_of_ms)
            del columns[history.last_ms_name]
        if ENTERED_LAST_MS in columns:
            columns["entered_authors"] = remembered_authors(columns, as_of_ms)
            del columns[ENTERED_LAST_MS]
        return columns

    def expired(self, record: bytes, as_of_ms: int, slack_ms: int) -> bool:
        """Whether a record may go: it was written more than memory and `slack_ms` before."""
        return as_of_ms - written_ms(record) > self.memory_ms + slack_ms

    def entry_names(self, name: str) -> tuple[str, ...]:
        """Names of the entries of a history's feature vector; () for any other feature."""
        return next((history.columns for history in self._histories if history.feature_name == name), ())

    def _empty_record(self) -> bytes:
        value = np.zeros(1, dtype=self._dtype)
        value[_WRITTEN] = np.iinfo(np.int64).max // 2  # never expires
        times = {ENTERED_LAST_MS, *(history.last_ms_name for history in self._histories)}
        for feature in self.features:
            value[feature.name] = NEVER_MS if feature.name in times else empty_value(feature)
        return value.tobytes()


def written_ms(record: bytes) -> int:
    """The time as of which a record was written."""
    return int.from_bytes(record[:8], "little", signed=True)


@functools.lru_cache(maxsize=32)
def layouts(schema: RankingSchema) -> Mapping[tuple[str, ...], RecordLayout]:
    """The tables of a schema's store; of equal schemas they are the same, since each window asks for them."""
    return types.MappingProxyType({key: RecordLayout(schema, key) for key in schema.stored})


def check_same(expected: RankingSchema, found: RankingSchema, where: str) -> None:
    """Compares what two schemas store.

    Raises:
        ValueError: If it isn't the same; the features that are missing, unknown or different are named.
    """
    wanted, stored = layouts(expected), layouts(found)
    if [layout.version for layout in wanted.values()] == [layout.version for layout in stored.values()]:
        return
    problems = []
    for key in dict.fromkeys([*wanted, *stored]):
        here = wanted[key].contents if key in wanted else {}
        there = stored[key].contents if key in stored else {}
        missing = [name for name in here if name not in there]
        unknown = [name for name in there if name not in here]
        problems += [f"{name!r} under {key} is missing" for name in missing]
        problems += [f"{name!r} under {key} is unknown" for name in unknown]
        problems += [
            f"{name!r} under {key} is {there[name]}, expected {here[name]}"
            for name in here
            if name in there and here[name] != there[name]
        ]
    problems = problems or ["the features stand in another order"]
    raise ValueError(
        f"{where} holds other features than schema {expected.name!r} says: {'; '.join(problems)}. Write the store "
        "from the beginning (replace it), or use the schema that it was written with"
    )


def empty_value(feature: Feature) -> int | float:
    """What stands in a feature of a key that was never seen."""
    if feature.dtype != "int64" or feature.name.endswith("run_lengths"):
        return 0
    return PADDING_ID


def _content(schema: RankingSchema, feature: Feature) -> str:
    entries: tuple[str, ...] = ()
    for history in schema.histories:
        entries = entries or _entries_of(history, feature.name)
    if feature.name == "statistic_sequence":
        entries = schema.metric_names
    return f"{feature.dtype} {feature.shape}" + (f" of {', '.join(entries)}" if entries else "")


def _entries_of(history: HistoryCounts, name: str) -> tuple[str, ...]:
    if name == history.feature_name:
        return history.columns
    if name == history.last_ms_name:
        return (*(kind.name.lower() for kind in history.kinds), "newest")
    return ()


def _rows(data: bytes, size: int) -> list[bytes]:
    return [data[begin : begin + size] for begin in range(0, len(data), size)]
