"""Ranking: the answer to "which rooms for this user?"."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RankedRoom:
    """One room of a ranking.

    Attributes:
        scores: Task name -> probability in [0, 1] that the event follows an impression of the room.
        score: What the rooms are ordered by, see `RankingClient`.
    """

    live_id: int
    scores: dict[str, float]
    score: float


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Rooms, best first, with the model version that scored them; None if there was no room to score."""

    user_id: int
    version: int | None
    rooms: tuple[RankedRoom, ...]
