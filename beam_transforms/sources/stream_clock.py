"""StreamClock: when events happened by the clock on the wall, in real time and in replays."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from beam_transforms.sources.replay import CLOCK_NAME

_FOREVER_S = 4e9


class StreamClock:
    """Tells at which time of the wall clock an event of a given time happened.

    In real time that is the event's own time. A replay runs at another pace: `replay.json` in the folder that is
    followed tells it (see `Replay`). It is looked for at each question until it is there, and read once.

    Args:
        folder: The folder that is followed; None for a topic.
        clock: Seconds since 1970.
    """

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(folder) / CLOCK_NAME if folder is not None else None
        self._clock = clock
        self._pace: dict[str, float] | None = None

    def now_s(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    def event_now_s(self) -> float:
        """Event time now, in seconds since 1970: what a source may call the future begins here."""
        pace = self._read()
        if pace is None:
            return self._clock()
        if pace["speed"] == 0:
            return _FOREVER_S
        return (pace["first_ms"] + (self._clock() * 1000 - pace["started_ms"]) * pace["speed"]) / 1000

    def happened_s(self, event_ms: int) -> float | None:
        """When an event happened, in seconds since 1970; None in a replay that doesn't wait."""
        pace = self._read()
        if pace is None:
            return event_ms / 1000
        if pace["speed"] == 0:
            return None
        return (pace["started_ms"] + (event_ms - pace["first_ms"]) / pace["speed"]) / 1000

    def lag_s(self, event_ms: int) -> float | None:
        """How long ago that was."""
        happened_s = self.happened_s(event_ms)
        return None if happened_s is None else self._clock() - happened_s

    def _read(self) -> dict[str, float] | None:
        if self._pace is None and self._path is not None and self._path.exists():
            try:
                pace = json.loads(self._path.read_text())
                self._pace = {name: float(pace[name]) for name in ("first_ms", "speed", "started_ms")}
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self._path} doesn't tell the pace of a replay: {error}") from error
        return self._pace
