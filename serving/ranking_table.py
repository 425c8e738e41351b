"""A ranking for people's eyes."""

import datetime

from rich.console import Group, RenderableType
from rich.table import Table

from serving.ranking import Ranking


def ranking_table(ranking: Ranking) -> RenderableType:
    """A row for each room, best first, a column for each task's score."""
    if not ranking.rooms:
        return f"No room is live to be ranked for user {ranking.user_id}."
    label = "" if ranking.label is None else f" ({ranking.label})"
    title = f"Rooms for user {ranking.user_id}, model version {ranking.version}{label}"
    table = Table(box=None, padding=(0, 1, 0, 0))  # nine tasks fit 80 columns
    table.add_column("#", justify="right")
    table.add_column("live_id", justify="right", no_wrap=True)
    table.add_column("score", justify="right", style="bold", no_wrap=True)
    for task in ranking.rooms[0].scores:
        table.add_column(task, justify="right", no_wrap=True)
    for place, room in enumerate(ranking.rooms, start=1):
        scores = (f"{score:.3f}" for score in room.scores.values())
        table.add_row(str(place), str(room.live_id), f"{room.score:.3f}", *scores)
    return Group(title, *_origin(ranking), table)


def _origin(ranking: Ranking) -> list[str]:
    """Where the scores come from, in words, a line each."""
    parts = []
    if ranking.foresight_end_ms is not None:
        end = datetime.datetime.fromtimestamp(ranking.foresight_end_ms / 1000, datetime.UTC)
        parts.append(f"foresight as of {end:%Y-%m-%d %H:%M:%S} UTC")
    if ranking.rooms_by_default:
        parts.append(f"rooms without stored foresight, scored from raw features: {ranking.rooms_by_default}")
    return parts
