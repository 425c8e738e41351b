"""RoomRecords: reads the rooms of an online store piece by piece."""

from collections.abc import Callable

import numpy as np

from beam_transforms.feature_request import check_rooms
from beam_transforms.foresight_vectors import vector_as_of_ms
from beam_transforms.record_layout import RecordLayout, written_ms
from beam_transforms.served import Served
from beam_transforms.store_head import StoreHead
from beam_transforms.store_snapshot import StoreSnapshot
from beam_transforms.stored_rooms import StoredRooms
from beam_transforms.wanted_records import WantedRecords

Read = Callable[[Callable[[StoreHead, Served], WantedRecords]], StoreSnapshot]

_AT_ONCE = 2000  # rooms; 50,000 in one answer would hold up a server's other readers
_ROUNDS = 5


class RoomRecords:
    """Which live rooms are wanted, and the way to read them; see `OnlineStore.rooms`."""

    def __init__(self, changed_since_ms: int | None, stale_under: int | None) -> None:
        self._changed_since_ms, self._stale_under = changed_since_ms, stale_under

    def read(self, read: Read, where: str) -> StoredRooms:
        """The rooms; starts again where the store is replaced meanwhile.

        Raises:
            ValueError: If a live room's record is gone.
            OSError: If the store is replaced nonstop.
        """
        for _ in range(_ROUNDS):
            rooms = self._read_once(read, where)
            if rooms is not None:
                return rooms
        raise OSError(f"{where}: the store was replaced {_ROUNDS} times while its rooms were read; is it written to?")

    def _read_once(self, read: Read, where: str) -> StoredRooms | None:
        head = read(lambda *_: WantedRecords()).head
        layout = head.layouts[("live_id",)]
        chosen: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        records: list[bytes | None] = []
        for begin in range(0, len(head.live_ids), _AT_ONCE):
            rooms = head.live_ids[begin : begin + _AT_ONCE]
            wanted = WantedRecords(layout.keys({"live_id": rooms}), self._stale_under, rooms)
            found = read(lambda *_, wanted=wanted: wanted)
            if None in found.records and found.head is not head:
                return None
            check_rooms(rooms, found.records, where)
            rows = [row for row in range(len(rooms)) if self._is_wanted(found, row)]
            chosen.append(rooms[rows])
            records += [found.records[row] for row in rows]
        written = np.array([written_ms(record or b"") for record in records], dtype=np.int64)
        columns = self._columns(layout, head, records)
        return StoredRooms(head.as_of_ms, np.concatenate(chosen), written, columns, head.generation)

    def _is_wanted(self, found: StoreSnapshot, row: int) -> bool:
        written = written_ms(found.records[row] or b"")
        if self._changed_since_ms is not None and written <= self._changed_since_ms:
            return False
        return self._stale_under is None or vector_as_of_ms(found.vectors[row]) < written

    def _columns(self, layout: RecordLayout, head: StoreHead, records: list[bytes | None]) -> dict[str, np.ndarray]:
        columns = layout.columns(records, head.as_of_ms)
        inputs = {feature.name for feature in head.inputs}
        return {name: values for name, values in columns.items() if name in inputs}
