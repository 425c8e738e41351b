"""Columns that the public layouts have in common."""

from beam_transforms.sources.event_accumulator import UNKNOWN_TIME
from beam_transforms.sources.tables.table import Column, RowCheck
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


def time(*names: str) -> Column:
    """When the event of a row happened."""
    return Column("time", TIMESTAMP, names)
