"""NearRealTimeLoop: windows of events become versions that answer, a few seconds after each has closed."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_transforms.local_stream import ClosedWindow
from beam_transforms.read_events import DEAD_LETTERS
from beam_transforms.sources.stream_clock import StreamClock
from beam_transforms.spans import SpanPlan
from beam_transforms.window_files import replace_file
from tfx_pipeline.near_real_time.config import StreamConfig
from tfx_pipeline.near_real_time.freshness import Freshness
from tfx_pipeline.near_real_time.lag_limit import LagLimit
from tfx_pipeline.near_real_time.learned_window import LEARNED, ROLLED_BACK, LearnedWindow
from tfx_pipeline.near_real_time.learner import StreamLearner
from tfx_pipeline.near_real_time.publisher import StreamPublisher
from tfx_pipeline.near_real_time.push_thread import PushThread
from tfx_pipeline.near_real_time.served_version import ServedVersion
from tfx_pipeline.near_real_time.server import StreamServer

SUMMARY = "stream.json"
"""What the loop says of itself, in its folder: anew after each window."""

_log = logging.getLogger(__name__)


class NearRealTimeLoop:
    """For each closed window: score, learn, judge, push, see it answer, note how fresh that is.

    Pushing and asking happen in a thread beside the next windows, one push at a time. While one is under way, windows
    are learned from and not pushed; the next push has all of them. So a slow server costs freshness and stops nothing.
    At the end, what isn't pushed yet is pushed.

    What has failed there (no server, no room for a version) is said in the next window's record and tried again with
    it. The learner's state is another matter: what can't be written there ends the loop, at the window before.

    Args:
        learner: Scores, learns and judges.
        publisher, server: Where versions go.
        plan: Says which span a version's newest event belongs to.
        config: What the loop can be told.
        folder: Where the summary goes.
        clock: Tells how far behind the loop is.
        tell: Called with each window's record, in JSON's types.
        newest: The version that the publisher goes on from: it is served at once. None if there is none.
    """

    def __init__(
        self,
        learner: StreamLearner,
        publisher: StreamPublisher,
        server: StreamServer,
        plan: SpanPlan,
        config: StreamConfig,
        folder: Path,
        clock: StreamClock,
        tell: Callable[[dict[str, Any]], None],
        newest: int | None = None,
    ) -> None:
        self._learner, self._folder, self._clock, self._tell = learner, Path(folder), clock, tell
        self._pusher = PushThread(learner, publisher, server, plan, config.warmup_rows, newest)
        self._lag = LagLimit(config.max_lag_s)
        self._freshness = Freshness(clock)
        self._last: LearnedWindow | None = None
        self._stream: dict[str, int] = {}  # the last window's counts of the stream
        self._reasons: tuple[str, ...] = ()  # why the current weights may be served

    def run(self, windows: Iterable[ClosedWindow], stopping: Callable[[], bool] = lambda: False) -> None:
        """Goes through windows until they end, or `stopping` says so after one; then pushes what isn't pushed yet."""
        try:
            self._pusher.serve_again()
            for window in windows:
                self.handle(window)
                if stopping():
                    break
            served = self._with_freshness(self._pusher.finish(self._reasons))
        finally:
            self._pusher.close()
        errors = self._pusher.take_errors()
        if served or errors:
            self._tell({"event": "end", "served": served, "errors": errors})
        self._learner.commit()  # not after an error: a window may be half dealt with
        self._write_summary("ended")

    def handle(self, window: ClosedWindow) -> dict[str, Any]:
        """Deals with one window; gives its record."""
        begin = time.monotonic()
        served = self._with_freshness(self._pusher.collect())
        adopted = self._adopt_newer()
        lag_s = self._clock.lag_s(window.end_ms)
        result = self._learn(window, self._lag.reason(lag_s, window.caught_up))
        learned_s = time.monotonic() - begin
        push = self._pusher.begin(self._reasons)
        before, self._stream = self._stream, dict(window.counts)
        record = {
            "event": "window",
            **result.to_json(),
            "version": self._version,
            "served": served,
            "freshness": self._freshness.summary(),
            "lag_s": None if lag_s is None else round(lag_s, 3),
            "behind": self._lag.behind,
            "live_rooms": window.live_rooms,
            "errors": self._pusher.take_errors(),
            "counts": self._counts(),
            "stream": self._stream,
            "unused": _unused(self._stream, None if window.closed_s is None else before),
            "adopted": adopted,
            "push": push,
            "seconds": {"learn": round(learned_s, 3), "handle": round(time.monotonic() - begin, 3)},
        }
        self._write_summary("running")
        self._tell(record)
        return record

    def _with_freshness(self, versions: Sequence[ServedVersion]) -> list[dict[str, Any]]:
        """Versions that answer, each with the windows that it is the first to have learned from."""
        return [
            {
                "version": version.version,
                "rooms": version.rooms,
                "seconds": version.seconds,
                "windows": self._freshness.served(version),
            }
            for version in versions
        ]

    def _adopt_newer(self) -> dict[str, Any] | None:
        adopted = self._pusher.adopt_newer()
        if adopted is not None:
            self._freshness.forget()
            self._reasons = (f"version {adopted['version']} was published by another process, and is gone on from",)
        return adopted

    def _learn(self, window: ClosedWindow, behind: str | None) -> LearnedWindow:
        """Learns from a window, and notes what pushes and freshness have to know of it."""
        learner = self._learner
        self._last = result = learner.learn(window, behind)
        if result.decision == LEARNED:
            self._freshness.learned(window, learner.number)
        elif result.decision == ROLLED_BACK:
            self._freshness.forget(learner.number)
            _log.warning("window %d: rolled back: %s", window.end_ms, "; ".join(result.reasons))
        if result.decision in (LEARNED, ROLLED_BACK):
            self._reasons = result.reasons
        if result.examples:
            self._pusher.take_example(window)
        return result

    @property
    def _version(self) -> int | None:
        return None if self._pusher.serving is None else self._pusher.serving.version

    def _counts(self) -> dict[str, int]:
        learner, pusher = self._learner, self._pusher
        counts = {f"windows_{name}": count for name, count in learner.windows.items()}
        counts |= {f"examples_{name}": count for name, count in learner.examples.items()}
        return {**counts, "pushes": pusher.pushes, "failed_pushes": pusher.failed_pushes, "adopted": learner.adopted}

    def _write_summary(self, state: str) -> None:
        learner, last = self._learner, self._last
        summary = {
            "state": "stopped" if learner.stopped else state,
            "reason": learner.stopped,
            "end_ms": learner.end_ms,
            "newest_event_ms": learner.newest_event_ms,
            "version": self._version,
            "decision": None if last is None else last.decision,
            "trailing": learner.trailing(),
            "freshness": self._freshness.summary(),
            "behind": self._lag.behind,
            "counts": self._counts(),
            "stream": self._stream,
        }
        data = json.dumps(summary, indent=1, allow_nan=False) + "\n"
        replace_file(self._folder / SUMMARY, lambda temporary: temporary.write_text(data))


def _unused(counts: Mapping[str, int], before: Mapping[str, int] | None) -> dict[str, int] | None:
    """Rows since the stream began that couldn't be used; None where they are those of before, or before isn't known."""
    found, known = (
        {
            "dead_letters": of.get(DEAD_LETTERS, 0),
            # A late impression is told by its exposure, a late event.
            "late": sum(of.get(f"late_{name}", 0) for name in ("events", "semantic_ids", "products")),
        }
        for of in (counts, counts if before is None else before)
    )
    return None if found == known else found
