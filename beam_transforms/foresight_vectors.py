"""Foresight vectors as records of an online store, and their keys.

A vector is stored under (version of the model, room). Its record is the end of the window as of which it was computed,
int64, and behind it F numbers, float32, little-endian.
"""

from collections.abc import Sequence

import numpy as np

from beam_transforms.schema import ROOM_MEMORY_MS

NO_VECTOR_MS = -1
"""Stands for the time of a vector that isn't there."""

VECTOR_MEMORY_MS = ROOM_MEMORY_MS
"""A vector that was computed longer ago is kept only while its room is live and its version is served."""


def id_bytes(live_ids: np.ndarray) -> list[bytes]:
    """The rooms' ids, big-endian."""
    return _rows(np.asarray(live_ids, dtype=np.int64).astype(">i8").tobytes(), 8)


def vector_prefix(version: int) -> bytes:
    """What the keys of all vectors of a version begin with."""
    return int(version).to_bytes(8, "big")


def vector_keys(version: int, live_ids: np.ndarray) -> list[bytes]:
    """The records' keys: the version, then the room, big-endian."""
    prefix = vector_prefix(version)
    return [prefix + room for room in id_bytes(live_ids)]


def vector_records(vectors: np.ndarray, as_of_ms: int) -> list[bytes]:
    """The records of vectors (R, F)."""
    values = np.zeros(len(vectors), dtype=_dtype(vectors.shape[1]))
    values["as_of_ms"], values["vector"] = as_of_ms, vectors
    return _rows(values.tobytes(), values.itemsize)


def vector_as_of_ms(record: bytes | None) -> int:
    """End of the window as of which a vector was computed; -1 without one."""
    return NO_VECTOR_MS if record is None else int.from_bytes(record[:8], "little", signed=True)


def read_vectors(
    records: Sequence[bytes | None], live_ids: np.ndarray, version: int | None, size: int, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rooms have a vector (R,), the vectors (R, F), and the times as of which they were computed (R,).

    Args:
        records: Of the rooms' vectors; None where there is none.
        live_ids: The rooms, shape (R,).
        version: The version that they should be of.
        size: F, the width that they should have.
        where: Location of the store, for errors.

    Raises:
        ValueError: If a vector has another width.
    """
    length = 8 + 4 * size
    for record, room in zip(records, live_ids, strict=True):
        if record is not None and len(record) != length:
            raise ValueError(
                f"{where}: the foresight vector of room {int(room)} under version {version} has {len(record)} bytes, "
                f"width {(len(record) - 8) / 4:g}, but the version is served with width {size}; promote the version "
                "again"
            )
    has = np.array([record is not None for record in records], dtype=bool)
    missing = vector_records(np.zeros((1, size), dtype=np.float32), NO_VECTOR_MS)[0]
    joined = b"".join(missing if record is None else record for record in records)
    values = np.frombuffer(joined, dtype=_dtype(size))
    return has, np.ascontiguousarray(values["vector"], dtype=np.float32), values["as_of_ms"].astype(np.int64)


def _dtype(size: int) -> np.dtype:
    return np.dtype([("as_of_ms", "<i8"), ("vector", "<f4", (size,))])


def _rows(data: bytes, size: int) -> list[bytes]:
    return [data[begin : begin + size] for begin in range(0, len(data), size)]
