"""What a simulation wrote, in numbers."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class SimulationSummary:
    """Figures of one simulation.

    Attributes:
        rows: Rows by file, of all shards together.
        events: Rows that become events: an impression is one, an entered one has an entry and an exit besides.
        impressions: Rooms shown, entered or not.
        rooms: Rooms that opened.
        rates: Positives per impression, by task of `LIVE_SCHEMA`, whenever in the session the action fell.
        bytes: Size on disk.
        wall_seconds, cpu_seconds: Time taken, writing included.
    """

    rows: dict[str, int]
    events: int
    impressions: int
    rooms: int
    rates: dict[str, float]
    bytes: int
    wall_seconds: float
    cpu_seconds: float

    @property
    def events_per_cpu_second(self) -> float:
        return self.events / self.cpu_seconds

    def to_json(self) -> dict[str, Any]:
        """Plain types; times rounded to milliseconds."""
        return dataclasses.asdict(self) | {
            "wall_seconds": round(self.wall_seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "events_per_cpu_second": round(self.events_per_cpu_second),
        }
