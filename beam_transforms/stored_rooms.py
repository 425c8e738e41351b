"""StoredRooms: raw features of live rooms, read from an online store."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class StoredRooms:
    """Live rooms with the model inputs that are stored of rooms.

    Attributes:
        as_of_ms: The time as of which the features hold. A record that a window under way has written already is newer.
        live_ids: The rooms, int64 of shape (R,), ascending.
        written_ms: The time as of which each room's record was written, int64 of shape (R,).
        columns: Input -> values of shape (R, ...).
        generation: Name of the filling of the store that they were read from; see `OnlineStore.write_foresight`.
    """

    as_of_ms: int
    live_ids: np.ndarray
    written_ms: np.ndarray
    columns: dict[str, np.ndarray]
    generation: str
