"""Ranking: the answer to "which rooms for this user?"."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class RankedRoom:
    """One room of a ranking.

    Attributes:
        scores: Task name -> probability in [0, 1] that the event follows an impression of the room.
        score: What the rooms are ordered by, see `RankingClient`.
    """

    live_id: int
    scores: dict[str, float]
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Ranking:
    """Rooms, best first, and what they were scored by.

    Attributes:
        version: The model version that scored all of them; None if there was no room to score.
        label: The label that was asked for; None where a version was.
        foresight_end_ms: End of the oldest window that a stored foresight vector behind the scores was computed from (a
            room in which nothing happens keeps its vector); None if no stored vector was used.
        rooms_by_default: How many of the candidates were scored by `serving_default`, from raw features, as they have
            no stored vector of the version.
    """

    user_id: int
    version: int | None
    rooms: tuple[RankedRoom, ...]
    label: str | None = None
    foresight_end_ms: int | None = None
    rooms_by_default: int = 0
