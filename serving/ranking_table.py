"""A ranking for people's eyes."""

from rich.console import RenderableType
from rich.table import Table

from serving.ranking import Ranking


def ranking_table(ranking: Ranking) -> RenderableType:
    """A row for each room, best first, a column for each task's score."""
    if not ranking.rooms:
        return f"No room is live to be ranked for user {ranking.user_id}."
    table = Table(title=f"Rooms for user {ranking.user_id}, model version {ranking.version}")
    table.add_column("#", justify="right")
    table.add_column("live_id", justify="right")
    table.add_column("score", justify="right", style="bold")
    for task in ranking.rooms[0].scores:
        table.add_column(task, justify="right")
    for place, room in enumerate(ranking.rooms, start=1):
        scores = (f"{score:.4f}" for score in room.scores.values())
        table.add_row(str(place), str(room.live_id), f"{room.score:.4f}", *scores)
    return table
