"""Small event logs for the tests of the transforms."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import tensorflow as tf

from beam_transforms.columnar import Columns, to_batch
from beam_transforms.schema import EVENT_COLUMNS, PADDING_ID, EventKind, RankingSchema
from beam_transforms.sources.source import DeadLetter, Partition, Source

NOON_MS = 1_750_075_200_000 // 43_200_000 * 43_200_000

Row = tuple[EventKind, float, int, int, int, float]


def log(*rows: Row) -> Columns:
    """Events from rows of (kind, seconds after NOON_MS, user_id, author_id, live_id, value)."""
    columns = {
        "kind": [row[0] for row in rows],
        "timestamp_ms": [NOON_MS + round(row[1] * 1000) for row in rows],
        "user_id": [row[2] for row in rows],
        "author_id": [row[3] for row in rows],
        "live_id": [row[4] for row in rows],
        "value": [row[5] for row in rows],
    }
    return {name: np.array(columns[name], dtype=dtype) for name, dtype in EVENT_COLUMNS.items()}


def event_rows(kinds: tuple[EventKind, ...] = tuple(EventKind), most: int = 60) -> st.SearchStrategy[list[Row]]:
    """Rows of few users and rooms, so that they meet often; the author of a room is room // 2."""

    def build(kind: EventKind, second: int, user: int, room: int, value: int) -> Row:
        of_room = kind in (EventKind.ROOM_START, EventKind.ROOM_END)
        return (kind, second / 2, PADDING_ID if of_room else user, room // 2, room, float(value))

    row = st.builds(
        build, st.sampled_from(kinds), st.integers(0, 2400), st.integers(0, 3), st.integers(0, 3), st.integers(1, 9)
    )
    return st.lists(row, min_size=1, max_size=most)


class MemorySource(Source):
    """Events that are already columns, cut into partitions."""

    def __init__(self, events: Columns, schema: RankingSchema, parts: int = 2) -> None:
        self.schema, self.notes = schema, ()
        self._events, self._parts = events, parts

    def partitions(self) -> list[Partition]:
        return [Partition(str(part), "memory") for part in range(self._parts)]

    def read(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        rows = slice(int(partition.path), None, self._parts)
        yield to_batch({name: values[rows] for name, values in self._events.items()})


def read_examples(folder: Path, schema: RankingSchema) -> Columns:
    """All examples below a folder by feature, ordered by time, user and room."""
    files = sorted(str(path) for path in Path(folder).rglob("*.tfrecord"))
    spec = {f.name: tf.io.FixedLenFeature(f.shape, _stored_dtype(f.dtype)) for f in schema.features}
    records = [record.numpy() for record in tf.data.TFRecordDataset(files)]
    parsed = {name: value.numpy() for name, value in tf.io.parse_example(records, spec).items()}
    order = np.lexsort([parsed["live_id"], parsed["user_id"], parsed["timestamp_ms"]])
    return {name: values[order] for name, values in parsed.items()}


def _stored_dtype(dtype: str) -> tf.DType:
    return tf.int64 if dtype == "int64" else tf.float32
