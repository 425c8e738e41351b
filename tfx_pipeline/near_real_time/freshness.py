"""Freshness: how long it takes until what happened is in the answers."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_transforms.local_stream import ClosedWindow
from beam_transforms.sources.stream_clock import StreamClock
from tfx_pipeline.near_real_time.served_version import ServedVersion

_KEPT = 2880  # windows: a day


class Freshness:
    """From windows that were learned from, and versions that answer, to seconds.

    A window is served once a version answers that has learned from it; that may be one which was pushed for a later
    window. All seconds are of the wall clock.

    - `close_to_answer_s`: from when it was seen that the window had closed to that answer. None of a window that was
      given once more after a restart.
    - `end_to_answer_s`: from when the window's end came, by the clock of events, to that answer.
    - `event_to_served_s`: from the newest event learned from (an impression, of `newest_event_ms`) to that answer.
    - `label_to_served_s`: from when each example's labels were known to that answer, the greatest of a window. It holds
      the wait for the window's end and for late events; a label policy's own wait comes before.

    Args:
        clock: Tells when events happened.
    """

    def __init__(self, clock: StreamClock) -> None:
        self._clock = clock
        self._waiting: collections.deque[tuple[int, int, float | None, int, int]] = collections.deque()
        self._found: dict[str, collections.deque[float]] = {
            name: collections.deque(maxlen=_KEPT)
            for name in ("close_to_answer_s", "end_to_answer_s", "event_to_served_s", "label_to_served_s")
        }

    def learned(self, window: ClosedWindow, number: int) -> None:
        """Notes that the weights of this number are the first that have learned from a window."""
        newest_ms = int(window.examples["timestamp_ms"].max())
        oldest_label_ms = int(window.emitted_ms.min()) if len(window.emitted_ms) else window.end_ms
        self._waiting.append((number, window.end_ms, window.closed_s, newest_ms, oldest_label_ms))

    def forget(self, number: int = -1) -> None:
        """Windows after this number were rolled back, or all dropped for another's version: they are never served."""
        self._waiting = collections.deque(entry for entry in self._waiting if entry[0] <= number)

    def served(self, version: ServedVersion) -> list[dict[str, Any]]:
        """The windows that are served since this version answers, with their seconds."""
        found = []
        while self._waiting and self._waiting[0][0] <= version.number:
            _, end_ms, closed_s, newest_ms, oldest_label_ms = self._waiting.popleft()
            seconds = {
                "close_to_answer_s": None if closed_s is None else version.answered_s - closed_s,
                "end_to_answer_s": self._since(end_ms, version.answered_s),
                "event_to_served_s": self._since(newest_ms, version.answered_s),
                "label_to_served_s": self._since(oldest_label_ms, version.answered_s),
            }
            for name, value in seconds.items():
                if value is not None:
                    self._found[name].append(value)
            rounded = {name: None if value is None else round(value, 3) for name, value in seconds.items()}
            found.append({"end_ms": end_ms, **rounded})
        return found

    def summary(self) -> dict[str, Any]:
        """Of the last day's windows, for each figure: how many windows, p50, p95 and the greatest."""
        return {name: quantiles(values) for name, values in self._found.items()}

    def _since(self, event_ms: int, now_s: float) -> float | None:
        happened_s = self._clock.happened_s(event_ms)
        return None if happened_s is None else now_s - happened_s


def quantiles(values: Sequence[float] | collections.deque[float]) -> dict[str, float | int | None]:
    """How many there are, p50, p95 and the greatest; None without any."""
    if not values:
        return {"windows": 0, "p50": None, "p95": None, "max": None}
    p50, p95 = np.percentile(np.array(values), (50, 95))
    return {
        "windows": len(values),
        "p50": round(float(p50), 3),
        "p95": round(float(p95), 3),
        "max": round(float(max(values)), 3),
    }
