"""A ranking for people's eyes."""

from rich.console import Group, RenderableType
from rich.table import Table

from serving.ranking import Ranking


def ranking_table(ranking: Ranking) -> RenderableType:
    """A row for each room, best first, a column for each task's score."""
    if not ranking.rooms:
        return f"No room is live to be ranked for user {ranking.user_id}."
    title = f"Rooms for user {ranking.user_id}, model version {ranking.version}"
    table = Table(box=None, padding=(0, 1, 0, 0))  # nine tasks fit 80 columns
    table.add_column("#", justify="right")
    table.add_column("live_id", justify="right", no_wrap=True)
    table.add_column("score", justify="right", style="bold", no_wrap=True)
    for task in ranking.rooms[0].scores:
        table.add_column(task, justify="right", no_wrap=True)
    for place, room in enumerate(ranking.rooms, start=1):
        scores = (f"{score:.3f}" for score in room.scores.values())
        table.add_row(str(place), str(room.live_id), f"{room.score:.3f}", *scores)
    return Group(title, table)
