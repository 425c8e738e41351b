"""FeatureRequest: the records that the features of one user and some rooms are made of."""

from collections.abc import Sequence

import numpy as np

from beam_transforms.context import context_features
from beam_transforms.record_layout import RecordLayout
from beam_transforms.store_head import StoreHead


class FeatureRequest:
    """What to read for one user and R rooms, and what follows from it.

    Args:
        head: The store's head.
        user_id: The user.
        live_ids: The rooms; all that are live by default.

    Attributes:
        keys: Keys of the records to read.
        live_ids: The rooms, int64 of shape (R,).

    Raises:
        ValueError: If a room isn't live.
    """

    def __init__(self, head: StoreHead, user_id: int, live_ids: Sequence[int] | np.ndarray | None) -> None:
        rooms = head.live_ids if live_ids is None else np.array(live_ids, dtype=np.int64).reshape(-1)
        self.live_ids, self._head = rooms.copy(), head
        self._ids = {
            "user_id": np.full(len(rooms), user_id, dtype=np.int64),
            "live_id": self.live_ids,
            "author_id": head.authors(rooms),
        }
        self.keys: list[bytes] = []
        self._parts: list[tuple[RecordLayout, int]] = []
        for layout in head.layouts.values():
            rows = min(len(rooms), 1) if layout.key == ("user_id",) else len(rooms)
            self.keys += layout.keys({name: self._ids[name][:rows] for name in layout.key})
            self._parts.append((layout, rows))

    def inputs(self, records: Sequence[bytes | None], now_ms: int | None, where: str) -> dict[str, np.ndarray]:
        """The features by name, each of shape (R, ...), in the order of `schema.inputs`.

        Args:
            records: Those under `keys`.
            now_ms: Time of the request; the head's `as_of_ms` by default.
            where: Location of the store, for errors.

        Raises:
            ValueError: If the record of a live room is gone, a record is damaged, or an input isn't stored.
        """
        head, rooms = self._head, self.live_ids
        columns, begin = dict(self._ids), 0
        for layout, rows in self._parts:
            here = records[begin : begin + rows]
            begin += rows
            if layout.of_rooms:
                check_rooms(rooms, here, where)
            found = layout.columns(here, head.as_of_ms)
            if rows != len(rooms):
                found = {name: np.repeat(values, len(rooms), axis=0) for name, values in found.items()}
            columns |= found
        now = np.full(len(rooms), head.as_of_ms if now_ms is None else now_ms, dtype=np.int64)
        columns["context"] = context_features(columns["opened_ms"], now)
        lacking = [feature.name for feature in head.inputs if feature.name not in columns]
        if lacking:
            raise ValueError(f"{where}: the inputs {lacking} of schema {head.schema.name!r} aren't stored")
        return {feature.name: columns[feature.name] for feature in head.inputs}


def check_rooms(live_ids: np.ndarray, records: Sequence[bytes | None], where: str) -> None:
    """Raises ValueError if a live room has no record."""
    if None in records:
        room = int(live_ids[records.index(None)])
        raise ValueError(
            f"{where}: the record of live room {room} is gone; it expired because nothing was written for long, or "
            "was evicted: write the store again"
        )
