"""Columns that the public layouts have in common."""

import numpy as np

from beam_transforms.sources.event_accumulator import UNKNOWN_TIME
from beam_transforms.sources.tables.table import Column, RowCheck, Rows
from beam_transforms.sources.tables.timestamps import MAX_TIMESTAMP_MS
from beam_transforms.sources.tables.value_types import ID, TIMESTAMP

USER = Column("user_id", ID)
ROOM = Column("live_id", ID, ("live_id", "live_stream_id"))
AUTHOR = Column("author_id", ID, ("author_id", "streamer_id"))
OPTIONAL_AUTHOR = Column("author_id", ID, ("author_id", "streamer_id"), required=False)
"""Where a table lacks it, the author comes from the tables that name one for each room."""
START = Column("start", TIMESTAMP, ("start_timestamp",))
END = Column("end", TIMESTAMP, ("end_timestamp",), default=UNKNOWN_TIME)
ENDS_AFTER_START = RowCheck(
    "the end should not be before the start",
    lambda rows: (rows["end"] == UNKNOWN_TIME) | (rows["end"] >= rows["start"]),
)


def session_end(rows: Rows) -> np.ndarray:
    """When each session ended: `end`, else `start` and `watched_ms` after it; `UNKNOWN_TIME` where neither is told."""
    start = rows["start"]
    told = rows.get("watched_ms", np.full(len(start), np.nan))
    computed = np.where(np.isnan(told), UNKNOWN_TIME, start + np.nan_to_num(told).astype(np.int64))
    end = rows.get("end", np.full(len(start), UNKNOWN_TIME))
    return np.where(end == UNKNOWN_TIME, computed, end)


def _ends_in_time(rows: Rows) -> np.ndarray:
    end = session_end(rows)
    return (end == UNKNOWN_TIME) | ((end >= rows["start"]) & (end < MAX_TIMESTAMP_MS))


SESSION_ENDS = RowCheck("the end should not be before the start, nor after 2099", _ends_in_time)
"""The same for sessions, whose end may have to be computed."""


def time(*names: str) -> Column:
    """When the event of a row happened."""
    return Column("time", TIMESTAMP, names)
