"""Which author broadcasts in which room."""

import numpy as np

_PENDING_ROOMS = 1_000_000


class RoomAuthors:
    """A map from rooms to authors that takes 16 bytes a room, for tables whose rows name the room alone.

    The first author that is added for a room counts.
    """

    def __init__(self) -> None:
        self._live_ids = np.zeros(0, dtype=np.int64)
        self._author_ids = np.zeros(0, dtype=np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending_rooms = 0

    def add(self, live_id: np.ndarray, author_id: np.ndarray) -> None:
        """Adds pairs, both of shape (rows,), repeated ones too."""
        rooms, first = np.unique(live_id, return_index=True)
        self._pending.append((rooms, author_id[first]))
        self._pending_rooms += len(rooms)
        if self._pending_rooms > max(_PENDING_ROOMS, len(self._live_ids)):
            self._merge()

    def find(self, live_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The author of each room, shape (rows,), 0 where unknown; and where it is known, bool, shape (rows,)."""
        self._merge()
        if not len(self._live_ids):
            return np.zeros(len(live_id), dtype=np.int64), np.zeros(len(live_id), dtype=bool)
        places = np.minimum(np.searchsorted(self._live_ids, live_id), len(self._live_ids) - 1)
        known = self._live_ids[places] == live_id
        return np.where(known, self._author_ids[places], 0), known

    def _merge(self) -> None:
        if not self._pending:
            return
        parts = [(self._live_ids, self._author_ids), *self._pending]
        live_ids = np.concatenate([live_ids for live_ids, _ in parts])
        author_ids = np.concatenate([author_ids for _, author_ids in parts])
        self._live_ids, first = np.unique(live_ids, return_index=True)
        self._author_ids = author_ids[first]
        self._pending, self._pending_rooms = [], 0
