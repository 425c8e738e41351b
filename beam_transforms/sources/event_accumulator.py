"""Gathers events of several kinds into batches."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from beam_transforms.events import EVENT_ARROW_SCHEMA, event_batch
from beam_transforms.schema import PADDING_ID, EventKind
from beam_transforms.sources.source import MAX_BATCH_ROWS
from beam_transforms.sources.tables.table import Rows

UNKNOWN_TIME = -1
"""Stands for a time that a row doesn't tell."""


class EventAccumulator:
    """Takes columns of events, one kind at a time, and gives them as batches of at most `MAX_BATCH_ROWS` rows."""

    def __init__(self) -> None:
        self._parts: list[pa.RecordBatch] = []

    def add(self, kind: EventKind, rows: Rows, timestamp_ms: np.ndarray, value: np.ndarray | float = 1.0) -> None:
        """Adds one event a row.

        Args:
            rows: Columns `author_id`, `live_id` and, if the kind isn't a room's, `user_id`; each of shape (rows,).
            timestamp_ms: Milliseconds since the epoch, shape (rows,); rows with `UNKNOWN_TIME` give no event.
            value: In the unit of the kind, shape (rows,) or one for all.
        """
        of_room = kind in (EventKind.ROOM_START, EventKind.ROOM_END)
        users = np.full(len(timestamp_ms), PADDING_ID) if of_room else rows["user_id"]
        columns = [timestamp_ms, users, rows["author_id"], rows["live_id"], np.broadcast_to(value, timestamp_ms.shape)]
        known = timestamp_ms != UNKNOWN_TIME
        if not known.all():
            columns = [column[known] for column in columns]
        self._parts.append(event_batch(int(kind), *columns))

    def add_sessions(self, rows: Rows, end_ms: np.ndarray, watched_ms: np.ndarray, first: np.ndarray) -> None:
        """Adds EXPOSURE (where `first`) and ENTER at the column `start`, and LEAVE (seconds watched) at `end_ms`."""
        self.add(EventKind.EXPOSURE, rows, np.where(first, rows["start"], UNKNOWN_TIME))
        self.add(EventKind.ENTER, rows, rows["start"])
        self.add(EventKind.LEAVE, rows, end_ms, watched_ms / 1000)

    def add_rooms(self, rows: Rows) -> None:
        """Adds ROOM_START and ROOM_END at the columns `start` and `end`."""
        self.add(EventKind.ROOM_START, rows, rows["start"])
        self.add(EventKind.ROOM_END, rows, rows["end"])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Empties the accumulator."""
        events = pa.Table.from_batches(self._parts, EVENT_ARROW_SCHEMA).combine_chunks()
        self._parts = []
        yield from (batch for batch in events.to_batches(MAX_BATCH_ROWS) if batch.num_rows)
