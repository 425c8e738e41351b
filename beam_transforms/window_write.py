"""WindowWrite: the changes of one window on their way into an online store, whichever it is."""

from collections.abc import Callable, Iterator

import numpy as np

from beam_transforms.record_layout import RecordLayout, check_same, layouts
from beam_transforms.schema import RankingSchema
from beam_transforms.store_head import StoreHead

Tables = dict[tuple[str, ...], list[dict[str, np.ndarray]]]


class WindowWrite:
    """What `OnlineStore.write` was called with, checked.

    Attributes:
        count: Number of records given out so far by `records`.

    Raises:
        ValueError: If a table isn't in the schema.
    """

    def __init__(
        self, schema: RankingSchema, as_of_ms: int, tables: Tables, live_ids: np.ndarray, replace: bool
    ) -> None:
        unknown = [key for key in tables if key not in schema.stored]
        if unknown:
            raise ValueError(f"the tables {unknown} aren't in schema {schema.name!r}, which has {list(schema.stored)}")
        self.schema, self.as_of_ms, self.replace = schema, int(as_of_ms), replace
        self.count = 0
        self._tables, self._layouts = tables, layouts(schema)
        self._live_ids = np.unique(np.asarray(live_ids, dtype=np.int64))
        self._rooms: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        self._authors: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]

    def is_replay(self, previous: StoreHead | None, where: str) -> bool:
        """Whether the store has this window, and later ones, already.

        Windows are written in order, each whole before the next. So a store that is further holds what this window
        would write, or what followed it: after a crash a pipeline may send again what it sent since its checkpoint.

        Raises:
            ValueError: If the store's content isn't what this write goes on from: it is of other features, or newer
                than what should replace it.
        """
        if previous is None:
            return False
        if self.as_of_ms < previous.as_of_ms and self.replace:
            raise ValueError(
                f"{where} holds features as of {previous.as_of_ms}, later than {self.as_of_ms}, those that should "
                "replace it; remove the store first if that is meant, or write into another one"
            )
        if not self.replace:
            check_same(self.schema, previous.schema, where)
        return self.as_of_ms < previous.as_of_ms

    def records(self) -> Iterator[tuple[RecordLayout, list[bytes], list[bytes]]]:
        """The keys and records of each batch, with their layout."""
        for key, batches in self._tables.items():
            layout = self._layouts[key]
            for columns in batches:
                records = layout.records(columns, self.as_of_ms)
                if layout.of_rooms:
                    self._rooms.append(np.asarray(columns["live_id"], dtype=np.int64))
                    self._authors.append(np.asarray(columns["author_id"], dtype=np.int64).reshape(-1))
                self.count += len(records)
                yield layout, layout.keys(columns), records

    def head(
        self,
        previous: StoreHead | None,
        stored: Callable[[list[bytes]], list[bytes | None]],
        generation: str = "",
    ) -> StoreHead:
        """The head after this window; call it when all of `records` were given out.

        Args:
            previous: The head before it.
            stored: Reads records by their keys, for live rooms that neither head nor window tell the author of.
            generation: See `StoreHead`.

        Raises:
            ValueError: If a live room has no record.
        """
        rooms, authors = np.concatenate(self._rooms), np.concatenate(self._authors)
        if previous is not None and not self.replace:
            rooms = np.concatenate([previous.live_ids, rooms])
            authors = np.concatenate([previous.author_ids, authors])
        rooms, newest = np.unique(rooms[::-1], return_index=True)  # of several the last one counts
        known = StoreHead(self.schema, self.as_of_ms, rooms, authors[::-1][newest])
        place, found = known.find(self._live_ids)
        author_ids = np.zeros(len(self._live_ids), dtype=np.int64)
        author_ids[found] = known.author_ids[place[found]]
        others = self._live_ids[~found]
        if len(others):
            layout = self._layouts[("live_id",)]
            records = [None] * len(others) if self.replace else stored(layout.keys({"live_id": others}))
            without = [int(room) for room, record in zip(others, records, strict=True) if record is None]
            if without:
                raise ValueError(
                    f"{len(without)} live rooms have no record in the store, e.g. {without[:3]}: write them"
                )
            author_ids[~found] = layout.columns(records, self.as_of_ms)["author_id"].reshape(-1)
        return StoreHead(self.schema, self.as_of_ms, self._live_ids, author_ids, generation)
