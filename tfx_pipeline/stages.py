"""Stages of a long run: what is under way, and how long each part took."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Stages:
    """Times named stages one after the other and shows them as a progress bar; silent without a terminal.

    Args:
        console: Where to draw.
        expected: Number of steps (stages and their parts) that the bar is drawn for.

    Attributes:
        seconds: Name -> wall seconds, in the order in which the stages ran.
    """

    def __init__(self, console: Console, expected: int) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = Progress(
            BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
        )
        self._task = self._progress.add_task("", total=expected)

    def __enter__(self) -> "Stages":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block as one stage."""
        begin = time.monotonic()
        self.step(name)
        yield
        self.seconds[name] = time.monotonic() - begin

    def step(self, description: str) -> None:
        """Says what is done now, and moves the bar on."""
        self._progress.update(self._task, description=description, advance=1)

    def to_json(self) -> list[dict[str, str | float]]:
        return [{"name": name, "seconds": round(seconds, 2)} for name, seconds in self.seconds.items()]
