"""NearRealTimeLoop: windows of events become versions that answer, a few seconds after each has closed."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from beam_transforms.local_stream import ClosedWindow
from beam_transforms.spans import SpanPlan
from beam_transforms.window_files import replace_file
from keras_models.weight_snapshot import WeightSnapshot
from tfx_pipeline.near_real_time.clock import StreamClock
from tfx_pipeline.near_real_time.config import StreamConfig
from tfx_pipeline.near_real_time.freshness import Freshness
from tfx_pipeline.near_real_time.learned_window import LEARNED, ROLLED_BACK, LearnedWindow
from tfx_pipeline.near_real_time.learner import StreamLearner
from tfx_pipeline.near_real_time.publisher import StreamPublisher
from tfx_pipeline.near_real_time.served_version import ServedVersion
from tfx_pipeline.near_real_time.server import StreamServer

SUMMARY = "stream.json"
"""What the loop says of itself, in its folder: anew after each window."""

_PUSH_ERRORS = (RuntimeError, OSError, ValueError, tf.errors.OpError)
"""PublishError and RankingError are among them, and a server that doesn't come up."""

_UNKNOWN = -1  # the number of a version's weights that the learner hasn't, or not under that number

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
        self._learner, self._publisher, self._server, self._plan = learner, publisher, server, plan
        self._config, self._folder, self._clock, self._tell = config, Path(folder), clock, tell
        self._freshness = Freshness(clock)
        self._snapshot = WeightSnapshot(learner.trainer.ranker)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._push: Future[ServedVersion] | None = None
        self._refresh: Future[None] | None = None
        self._published: tuple[int, int] | None = None  # number of the weights and version, whether it answers or not
        if newest is not None:
            number = learner.published if learner.version == newest else None
            self._published = (_UNKNOWN if number is None else number, newest)
        self._serving: ServedVersion | None = None
        self._foreign = False  # whether there is a newer version that can't be gone on from
        self._behind = False
        self._pushes = self._failed_pushes = 0
        self._last: LearnedWindow | None = None
        self._example: dict[str, np.ndarray] | None = None
        self._files: list[str] = []
        self._reasons: tuple[str, ...] = ()
        self._errors: list[str] = []

    def run(self, windows: Iterable[ClosedWindow], stopping: Callable[[], bool] = lambda: False) -> None:
        """Goes through windows until they end, or `stopping` says so after one; then pushes what isn't pushed yet."""
        try:
            if self._published is not None:
                self._serve_again()
            for window in windows:
                self.handle(window)
                if stopping():
                    break
            self._errors = []
            served = self._wait()
            if self._published is None or self._published[0] != self._learner.number:
                self._begin_push()
                served += self._wait()
        finally:
            self._thread.shutdown(wait=True)
            self._publisher.close()
        if served or self._errors:
            self._tell({"event": "end", "served": served, "errors": self._errors})
        self._learner.commit()  # not after an error: a window may be half dealt with
        self._write_summary("stopped" if self._learner.stopped else "ended")

    def handle(self, window: ClosedWindow) -> dict[str, Any]:
        """Deals with one window; gives its record."""
        begin = time.monotonic()
        self._errors = []
        served = self._collect()
        adopted = self._adopt_newer()
        lag_s = self._clock.lag_s(window.end_ms)
        result = self._learner.learn(window, self._lag_reason(lag_s, window.caught_up))
        self._last = result
        if result.decision == LEARNED:
            self._freshness.learned(window, self._learner.number)
        elif result.decision == ROLLED_BACK:
            self._freshness.forget(self._learner.number)
            _log.warning("window %d: rolled back: %s", window.end_ms, "; ".join(result.reasons))
        if result.decision in (LEARNED, ROLLED_BACK):
            self._reasons = result.reasons
        learned_s = time.monotonic() - begin
        if result.examples:
            self._example = {name: values[:1] for name, values in window.examples.items()}
            self._files = [path for path, _ in window.files]
        push = self._begin_push()
        seconds = {"learn": round(learned_s, 3), "handle": round(time.monotonic() - begin, 3)}
        record = self._record(window, result, served, lag_s)
        record |= {"adopted": adopted, "push": push, "seconds": seconds}
        self._write_summary("stopped" if self._learner.stopped else "running")
        self._tell(record)
        return record

    def _lag_reason(self, lag_s: float | None, caught_up: bool) -> str | None:
        """Why the window isn't learned from, if the loop is too far behind: until it has caught up.

        Where all that there was has been read, the source is late, not the loop: nothing is won by skipping.
        """
        limit_s = self._config.max_lag_s
        if lag_s is None or limit_s == 0:
            return None
        if not self._behind and lag_s > limit_s and not caught_up:
            self._behind = True
            _log.warning("%.0f s behind, more than %.0f s: windows are skipped until it has caught up", lag_s, limit_s)
        elif self._behind and (lag_s <= limit_s / 4 or caught_up):
            self._behind = False
            _log.warning("caught up: %.0f s behind", lag_s)
        if not self._behind:
            return None
        return f"{lag_s:.0f} s behind, more than {limit_s:g} s: skipped until it is less than {limit_s / 4:g} s"

    def _begin_push(self) -> str:
        """Pushes if there is something to push and no push is under way; says which."""
        learner = self._learner
        if self._push is not None:
            return "under way"
        if self._foreign:
            self._begin_refresh()
            return "held back: another process has published a version that can't be gone on from"
        number, example = learner.number, self._example
        if self._published is not None and self._published[0] == number:
            if self._serving is None or self._serving.version != self._published[1] or self._server.has_ended:
                self._serve_again()
                return "served again"
            self._begin_refresh()
            return "nothing new"
        if example is None:
            return "nothing new"
        if not self._publisher.has_base:
            first = learner.judge_first()
            if not first.blessed:
                return f"no first model yet: {'; '.join(first.reasons)}"
            return self._begin_first(number, example, self._manifest(first.reasons))
        touched = learner.trainer.take_touched()
        weights = self._snapshot.update(None if learner.weights_changed_otherwise else touched)
        reasons = self._reasons or ("these are the weights of before",)
        manifest = self._manifest(reasons)

        def push() -> ServedVersion:
            begin = time.monotonic()
            version = self._publisher.push(weights, manifest)
            self._is_published(number, version)
            return self._publisher.serve(version, number, example, time.monotonic() - begin)

        self._push = self._thread.submit(push)
        return "begun"

    def _begin_first(self, number: int, example: dict[str, np.ndarray], manifest: dict[str, Any]) -> str:
        """Publishes a first model; the export reads the model, so nothing is learned meanwhile."""
        begin = time.monotonic()
        try:
            version = self._publisher.publish_first(
                self._learner.trainer.ranker, self._files, manifest, self._config.warmup_rows
            )
        except _PUSH_ERRORS as error:
            self._failed(error)
            return "failed"
        self._is_published(number, version)
        self._push = self._thread.submit(self._publisher.serve, version, number, example, time.monotonic() - begin)
        return "begun"

    def _is_published(self, number: int, version: int) -> None:
        self._published = number, version
        self._learner.lineage.published(number, version)
        self._pushes += 1

    def _serve_again(self) -> None:
        """Makes the version that is there answer: after a restart, or where it didn't or its server has ended."""
        if self._published is not None:
            number, version = self._published
            self._push = self._thread.submit(self._publisher.serve, version, number, self._example)

    def _begin_refresh(self) -> None:
        """Between pushes, the vectors of rooms that changed in the window."""
        if self._push is None and self._serving is not None and (self._refresh is None or self._refresh.done()):
            if self._refresh is not None and self._refresh.exception() is not None:
                self._errors.append(f"refreshing rooms failed: {self._refresh.exception()}")
            self._refresh = self._thread.submit(self._publisher.refresh)

    def _collect(self) -> list[dict[str, Any]]:
        """What was pushed and answers since the last look."""
        if self._push is None or not self._push.done():
            return []
        push, self._push = self._push, None
        try:
            version = push.result()
        except _PUSH_ERRORS as error:
            self._failed(error)
            return []
        self._serving = version
        if version.number != _UNKNOWN:
            self._learner.mark_published(version.number, version.version)
        windows = self._freshness.served(version)
        return [{"version": version.version, "rooms": version.rooms, "seconds": version.seconds, "windows": windows}]

    def _wait(self) -> list[dict[str, Any]]:
        if self._push is not None:
            wait([self._push])
        return self._collect()

    def _failed(self, error: BaseException) -> None:
        self._failed_pushes += 1
        self._errors.append(f"push failed, it is tried again with the next window: {error}")
        _log.warning("push failed: %s", error)

    def _adopt_newer(self) -> dict[str, Any] | None:
        """If the pipeline has published a version meanwhile, its weights are gone on from; says so.

        What the loop has learned goes with that; windows that weren't published yet are counted.
        """
        if self._push is not None:
            return None
        learner, version, adopted = self._learner, None, None
        try:
            version = self._publisher.newer_version()
            self._foreign = version is not None
            if version is None:
                return None
            folder = self._server.model_dir / self._server.model_name / str(version)
            if learner.version != version:
                adopted = {"version": version, "windows_dropped": learner.adopt(folder)}
                self._freshness.forget()
                self._reasons = (f"version {version} was published by another process, and is gone on from",)
                _log.warning("version %d was published by another process: going on from it", version)
            self._publisher.go_on_from(version)
            self._foreign, self._published = False, (learner.number, version)
        except _PUSH_ERRORS as error:
            if version is None:
                self._errors.append(f"whether there is a newer version can't be told: {error}")
            else:
                self._errors.append(
                    f"version {version} was published by another process and can't be gone on from, so nothing is "
                    f"pushed: {error}; begin anew in another folder of examples, or publish a version of this model"
                )
            _log.warning("%s", self._errors[-1])
        return adopted

    def _manifest(self, reasons: tuple[str, ...]) -> dict[str, Any]:
        newest_ms = int(self._learner.newest_event_ms or 0)
        return {
            "model_name": self._server.model_name,
            "span": int(self._plan.span(np.array([newest_ms]))[0]),
            "newest_event_ms": newest_ms,
            "parent_version": self._learner.lineage.parent(self._learner.number),
            "tasks": self._learner.trailing(),
            "decision": "blessed",
            "reasons": list(reasons),
        }

    def _record(
        self, window: ClosedWindow, result: LearnedWindow, served: list[dict[str, Any]], lag_s: float | None
    ) -> dict[str, Any]:
        return {
            "event": "window",
            **result.to_json(),
            "version": None if self._serving is None else self._serving.version,
            "served": served,
            "freshness": self._freshness.summary(),
            "lag_s": None if lag_s is None else round(lag_s, 3),
            "behind": self._behind,
            "live_rooms": window.live_rooms,
            "errors": self._errors,
            **self._counts(),
            "stream": dict(window.counts),
        }

    def _counts(self) -> dict[str, Any]:
        learner = self._learner
        counts: dict[str, Any] = {f"windows_{name}": count for name, count in learner.windows.items()}
        counts |= {f"examples_{name}": count for name, count in learner.examples.items()}
        counts |= {"pushes": self._pushes, "failed_pushes": self._failed_pushes}
        return {"counts": {**counts, "adopted": learner.adopted}}

    def _write_summary(self, state: str) -> None:
        last = self._last
        summary: Mapping[str, Any] = {
            "state": state,
            "reason": self._learner.stopped,
            "end_ms": self._learner.end_ms,
            "newest_event_ms": self._learner.newest_event_ms,
            "version": None if self._serving is None else self._serving.version,
            "decision": None if last is None else last.decision,
            "trailing": self._learner.trailing(),
            "freshness": self._freshness.summary(),
            "behind": self._behind,
            **self._counts(),
        }
        data = json.dumps(summary, indent=1, allow_nan=False) + "\n"
        replace_file(self._folder / SUMMARY, lambda temporary: temporary.write_text(data))
