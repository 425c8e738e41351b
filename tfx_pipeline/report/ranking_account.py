"""Ranked answers side by side: what moved between one and the next."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class PlacedRoom:
    """A room of a ranked answer.

    Attributes:
        place: 1 for the best.
        scores: Task -> probability.
        change: Places gained since the user's answer before, such as "▲ 2", "▼ 1", "=" or "new"; empty in the first.
    """

    place: int
    live_id: int
    scores: Mapping[str, float]
    change: str


@dataclasses.dataclass(frozen=True)
class PlacedAnswer:
    """A ranked answer.

    Attributes:
        when: "Before" for the first of a user's answers, "After" for the later ones, "Answer" for one that is alone.
        version: Version of the model that scored it; None if there was no room to score.
        gone: Rooms of the user's answer before that aren't in this one.
    """

    user_id: int
    when: str
    version: int | None
    tasks: tuple[str, ...]
    rooms: tuple[PlacedRoom, ...]
    gone: tuple[int, ...]

    @property
    def title(self) -> str:
        return f"{self.when}: " + ("no room is live" if self.version is None else f"version {self.version}")


def placed_answers(summary: Mapping[str, Any]) -> dict[int, list[PlacedAnswer]]:
    """User -> the user's answers in the order of the summary's "rank"."""
    answers: dict[int, list[PlacedAnswer]] = {}
    number = collections.Counter(rank["user_id"] for rank in summary["rank"])
    for rank in summary["rank"]:
        of_user = answers.setdefault(rank["user_id"], [])
        before = {room.live_id: room.place for room in of_user[-1].rooms} if of_user else None
        rooms = tuple(_placed(rank["rooms"], before))
        of_user.append(
            PlacedAnswer(
                user_id=rank["user_id"],
                when="After" if of_user else "Before" if number[rank["user_id"]] > 1 else "Answer",
                version=rank["version"],
                tasks=tuple(dict.fromkeys(task for room in rooms for task in room.scores)),
                rooms=rooms,
                gone=tuple(live_id for live_id in before or () if live_id not in {room.live_id for room in rooms}),
            )
        )
    return answers


def _placed(rooms: list[dict[str, Any]], before: Mapping[int, int] | None) -> Iterator[PlacedRoom]:
    for place, room in enumerate(rooms, start=1):
        yield PlacedRoom(place, room["live_id"], room["scores"], _change(room["live_id"], place, before))


def _change(live_id: int, place: int, before: Mapping[int, int] | None) -> str:
    if before is None:
        return ""
    if live_id not in before:
        return "new"
    gained = before[live_id] - place
    return "=" if gained == 0 else f"{'▲' if gained > 0 else '▼'} {abs(gained)}"
