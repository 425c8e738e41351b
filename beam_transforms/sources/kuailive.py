"""Reads a folder in the layout of KuaiLive (arXiv 2508.05633)."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from beam_transforms.schema import EventKind
from beam_transforms.sources.event_accumulator import EventAccumulator
from beam_transforms.sources.layout_columns import (
    AUTHOR,
    END,
    ENDS_AFTER_START,
    OPTIONAL_AUTHOR,
    ROOM,
    SESSION_ENDS,
    START,
    USER,
    session_end,
    time,
)
from beam_transforms.sources.source import DeadLetter, Partition
from beam_transforms.sources.table_source import Table, TableSource
from beam_transforms.sources.tables.table import Column, Rows
from beam_transforms.sources.tables.value_types import AMOUNT, DURATION, TIMESTAMP
from beam_transforms.sources.title_segments import TitleSegments

_EVENT_KINDS = {
    "negative": EventKind.EXPOSURE,
    "comment": EventKind.COMMENT,
    "like": EventKind.LIKE,
    "gift": EventKind.GIFT,
}
_ACTION = (USER, ROOM, OPTIONAL_AUTHOR, time("timestamp"))


class KuaiLiveSource(TableSource):
    """Events of a KuaiLive folder.

    - `click`, which is required: EXPOSURE and ENTER at its time, LEAVE `watch_live_time` later with the seconds
      watched (a
      click without it gives no LEAVE). `negative` gives the impressions that weren't entered.
    - `room`: ROOM_START, and ROOM_END unless the room is still live.
    - `comment` (its length isn't known: 0), `like` and `gift`: one event a row.

    Segments: one a room, at its start, whose embedding is that of its title (`title_embeddings.npy`).

    The data set tells no follows, shares, orders or clicks on products. The profiles' accumulated columns (`accu_*`)
    hold totals over the whole period, the future included: they are never read.
    """

    LAYOUT: ClassVar[str] = "KuaiLive"
    TABLES: ClassVar[tuple[Table, ...]] = (
        Table(
            "click.csv",
            (
                USER,
                ROOM,
                AUTHOR,
                Column("start", TIMESTAMP, ("timestamp",)),
                Column("watched_ms", DURATION, ("watch_live_time",), default=np.nan),
            ),
            check=SESSION_ENDS,
        ),
        Table("negative.csv", _ACTION, metrics=("exposure",), tasks=("ctr",)),
        Table("comment.csv", _ACTION, kinds=(EventKind.COMMENT,)),
        Table("like.csv", _ACTION, kinds=(EventKind.LIKE,)),
        Table("gift.csv", (*_ACTION, Column("value", AMOUNT, ("gift_price",))), kinds=(EventKind.GIFT,)),
        Table("room.csv", (ROOM, AUTHOR, START, END), check=ENDS_AFTER_START, loss="no room has a start or an end"),
    )
    ROOM_TABLES: ClassVar[tuple[str, ...]] = ("room", "click")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        untold = (
            EventKind.FOLLOW,
            EventKind.SHARE,
            EventKind.ORDER,
            EventKind.PRODUCT_CLICK,
            EventKind.CART_CLICK,
        )
        self._note(f"KuaiLive tells no follows, shares, orders or clicks on products: {self._switch_off(untold)}")
        self._titles = TitleSegments(folder, self._files.get("room"))
        self._note(f"KuaiLive has no segment embeddings: {self._titles.note}")

    def segment_partitions(self) -> list[Partition]:
        return [Partition(str(path), "titles") for path in self._titles.paths]

    def read_segments(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        if partition not in self.segment_partitions():
            raise ValueError(f"{partition} is not one of this source's; take them from segment_partitions()")
        yield from self._titles.read()

    def _events(self, table: str, rows: Rows) -> Iterator[pa.RecordBatch]:
        events = EventAccumulator()
        if table == "click":
            first = np.ones(len(rows["start"]), dtype=bool)
            events.add_sessions(rows, session_end(rows), rows["watched_ms"], first)
        elif table == "room":
            events.add_rooms(rows)
        else:
            value = 0.0 if table == "comment" else 1.0
            events.add(_EVENT_KINDS[table], rows, rows["time"], rows.get("value", value))
        yield from events.batches()
