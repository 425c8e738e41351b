"""RoomSideReport: what the room-side job did."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RoomSideReport:
    """One run over the live rooms.

    Attributes:
        event: "promote" or "refresh".
        versions: The versions whose vectors were written, or that have none to write (a model without foresight).
        label: The label that moved; None for a refresh.
        as_of_ms: Time of the features that the vectors were made of, the least if there are several.
        rooms: Vectors written.
        skipped: Served versions that the server doesn't have any more.
        forgotten: Vectors removed, of versions that aren't served.
        read_s: Seconds spent on reading rooms from the store.
        forecast_s: Seconds spent on asking the server.
        write_s: Seconds spent on writing to the store.
    """

    event: str
    versions: tuple[int, ...]
    label: str | None
    as_of_ms: int
    rooms: int
    skipped: tuple[int, ...] = ()
    forgotten: int = 0
    read_s: float = 0.0
    forecast_s: float = 0.0
    write_s: float = 0.0
