"""Reads a folder in the layout of KuaiLive-M3 (arXiv 2607.24862), which is also this project's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from beam_transforms.schema import EventKind
from beam_transforms.sources.event_accumulator import UNKNOWN_TIME, EventAccumulator
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
from beam_transforms.sources.products import PRODUCT_COLUMNS_READ, read_products
from beam_transforms.sources.segment_files import SegmentFiles
from beam_transforms.sources.source import MAX_BATCH_ROWS, DeadLetter, Partition
from beam_transforms.sources.table_source import Table, TableSource
from beam_transforms.sources.tables.table import Column, Rows
from beam_transforms.sources.tables.value_types import AMOUNT, CHARACTERS, COUNT, DURATION, FLAG, REENTRY, TIMESTAMP

_EVENT_KINDS = {
    "live_show": EventKind.EXPOSURE,
    "live_comment": EventKind.COMMENT,
    "live_like": EventKind.LIKE,
    "live_share": EventKind.SHARE,
    "live_gift": EventKind.GIFT,
    "live_follow": EventKind.FOLLOW,
    "live_order": EventKind.ORDER,
    "live_product_click": EventKind.PRODUCT_CLICK,
    "live_cart_click": EventKind.CART_CLICK,
}

_PRODUCTS = Table("live_product.parquet", PRODUCT_COLUMNS_READ, loss="features of products are off")

_SESSION_COUNTS = {
    "live_comment": Column("comment_cnt", COUNT, default=0, required=False),
    "live_like": Column("like_cnt", COUNT, default=0, required=False),
    "live_share": Column("share_cnt", COUNT, default=0, required=False),
    "live_gift": Column("send_gift_cnt", COUNT, default=0, required=False),
    "live_follow": Column("follow_author_cnt", COUNT, default=0, required=False),
}
"""Table -> the column of `live_interaction` that counts the same events of a session."""


def _actions(file: str, kind: EventKind, *columns: Column) -> Table:
    return Table(file, (USER, ROOM, OPTIONAL_AUTHOR, *columns), kinds=(kind,))


class KuaiLiveM3Source(TableSource):
    """Events of a KuaiLive-M3 folder.

    - `live_interaction`, which is required: ENTER at a session's start and LEAVE at its end with the seconds watched
      (`play_duration`, else end - start; a session without either gives no LEAVE). A session that isn't a re-entry is
      also an impression: an EXPOSURE at its start. `live_show` gives the impressions that weren't entered.
    - `live_room_meta`: ROOM_START, and ROOM_END unless the room is still live.
    - `live_comment`, `live_like`, `live_share` (successful ones), `live_gift`, `live_follow`, `live_order`,
      `live_product_click` and `live_cart_click`: one event a row.
    - Comments, likes, shares, gifts and follows whose table is missing are taken from the session's counts. When they
      happened isn't known: they are placed at the session's end, a millisecond apart and none before its start, so that
      they are distinct events. The length of such a comment and the price of such a gift aren't known either: 0.
    - `live_emb_128_ts`: segments, whose `timestamp_ms` is a millisecond before their end; when a segment began isn't
      told. `live_product`: products.
    """

    LAYOUT: ClassVar[str] = "KuaiLive-M3"
    TABLES: ClassVar[tuple[Table, ...]] = (
        Table(
            "live_interaction.csv",
            (
                USER,
                ROOM,
                AUTHOR,
                Column("start", TIMESTAMP, ("live_play_start_timestamp",)),
                Column("end", TIMESTAMP, ("live_play_end_timestamp",), default=UNKNOWN_TIME),
                Column("watched_ms", DURATION, ("play_duration",), default=np.nan, required=False),
                Column("reentry", REENTRY, ("enter_live_action",), required=False),
            ),
            check=SESSION_ENDS,
        ),
        Table(
            "live_show.parquet",
            (USER, ROOM, OPTIONAL_AUTHOR, time("show_timestamp")),
            metrics=("exposure",),
            tasks=("ctr",),
        ),
        _actions(
            "live_comment.csv",
            EventKind.COMMENT,
            time("comment_ts"),
            Column("value", CHARACTERS, ("content",), required=False),
        ),
        _actions("live_like.csv", EventKind.LIKE, time("like_timestamp")),
        _actions(
            "live_share.csv",
            EventKind.SHARE,
            time("share_timestamp"),
            Column("success", FLAG, ("is_share_success",), default=True, required=False),
        ),
        Table(
            "live_room_meta.parquet",
            (ROOM, AUTHOR, START, END),
            check=ENDS_AFTER_START,
            loss="no room has a start or an end",
        ),
        _actions("live_gift.csv", EventKind.GIFT, time("timestamp"), Column("value", AMOUNT, ("gift_price",))),
        _actions("live_follow.csv", EventKind.FOLLOW, time("timestamp")),
        _actions("live_product_click.csv", EventKind.PRODUCT_CLICK, time("timestamp")),
        _actions("live_cart_click.csv", EventKind.CART_CLICK, time("timestamp")),
        _actions("live_order.csv", EventKind.ORDER, time("timestamp"), Column("value", AMOUNT, ("price",))),
    )
    ROOM_TABLES: ClassVar[tuple[str, ...]] = ("live_room_meta", "live_interaction")

    def __init__(self, folder: Path) -> None:
        self._counted: dict[EventKind, Column] = {}
        super().__init__(folder)
        if not self._has("reentry", self.TABLES[0]):
            self._note(f"{self.TABLES[0].file} has no enter_live_action: every session counts as an impression")
        self._segments = SegmentFiles(folder)
        self.notes += self._segments.notes
        reason = self._find(folder, _PRODUCTS)
        if reason:
            self._note(f"{_PRODUCTS.file} {reason}: {_PRODUCTS.loss}")

    def segment_partitions(self) -> list[Partition]:
        return [Partition(str(path), "segments") for path in self._segments.paths]

    def read_segments(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        if partition not in self.segment_partitions():
            raise ValueError(f"{partition} is not one of this source's; take them from segment_partitions()")
        path = Path(partition.path)
        authors = None if self._segments.names_authors(path) else self._room_authors()
        yield from self._segments.read(path, authors)

    def product_partitions(self) -> list[Partition]:
        path = self._files.get(_PRODUCTS.name)
        return [Partition(str(path), _PRODUCTS.name)] if path else []

    def read_products(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        if partition not in self.product_partitions():
            raise ValueError(f"{partition} is not one of this source's; take them from product_partitions()")
        authors = None if self._has("author_id", _PRODUCTS) else self._room_authors()
        yield from read_products(Path(partition.path), authors)

    def _do_without(self, table: Table, problem: str) -> None:
        column = _SESSION_COUNTS.get(table.name)
        sessions = self.TABLES[0]
        if column is None or column.name not in self._headers[sessions.name]:
            super()._do_without(table, problem)
            return
        file = self._files[sessions.name].name
        self._counted[_EVENT_KINDS[table.name]] = column
        note = f"{problem}: its events are taken from {column.name} of {file}, at the session's end"
        if table.name == "live_gift":
            note += f"; their price isn't known, so {self._switch_off((), ('gift_value',))}"
        self._note(note)

    def _columns(self, table: Table) -> tuple[Column, ...]:
        return (*table.columns, *self._counted.values()) if table is self.TABLES[0] else table.columns

    def _events(self, table: str, rows: Rows) -> Iterator[pa.RecordBatch]:
        events = EventAccumulator()
        if table == "live_interaction":
            yield from self._session_events(rows)
        elif table == "live_room_meta":
            events.add_rooms(rows)
        else:
            times = np.where(rows["success"], rows["time"], UNKNOWN_TIME) if "success" in rows else rows["time"]
            unknown = 0.0 if table == "live_comment" else 1.0
            events.add(_EVENT_KINDS[table], rows, times, rows.get("value", unknown))
        yield from events.batches()

    def _session_events(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        nothing = np.zeros(len(rows["start"]), dtype=bool)
        told = rows.get("watched_ms", np.full(len(nothing), np.nan))
        end = session_end(rows)
        watched = np.where(np.isnan(told), end - rows["start"], told)
        events = EventAccumulator()
        events.add_sessions(rows, end, watched, first=~rows.get("reentry", nothing))
        yield from events.batches()
        end = np.where(end == UNKNOWN_TIME, rows["start"], end)
        for kind, column in self._counted.items():
            value = 0.0 if kind in (EventKind.COMMENT, EventKind.GIFT) else 1.0
            for part, counts in _parts(rows[column.name]):
                session = np.repeat(part, counts)
                before = np.arange(len(session)) - np.repeat(np.cumsum(counts) - counts, counts)
                times = np.maximum(end[session] - before, rows["start"][session])
                ids = {name: rows[name][session] for name in ("user_id", "author_id", "live_id")}
                events.add(kind, ids, times, value)
                yield from events.batches()


def _parts(counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts rows into runs whose counts add up to at most `MAX_BATCH_ROWS`: row numbers and their counts."""
    rows = np.flatnonzero(counts)
    total = np.cumsum(counts[rows])
    first = 0
    while first < len(rows):
        done = total[first] - counts[rows[first]]
        stop = int(np.searchsorted(total, done + MAX_BATCH_ROWS, side="right"))
        yield rows[first:stop], counts[rows[first:stop]]
        first = stop
