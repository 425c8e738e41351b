"""PushThread: what was learned is published, loaded and asked for beside the next windows."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from beam_transforms.local_stream import ClosedWindow
from beam_transforms.spans import SpanPlan
from keras_models.weight_snapshot import WeightSnapshot
from tfx_pipeline.near_real_time.learner import StreamLearner
from tfx_pipeline.near_real_time.publisher import StreamPublisher
from tfx_pipeline.near_real_time.served_version import ServedVersion
from tfx_pipeline.near_real_time.server import StreamServer
from tfx_pipeline.near_real_time.version_mark import version_mark

_PUSH_ERRORS = (RuntimeError, OSError, ValueError, tf.errors.OpError)
"""PublishError and RankingError are among them, and a server that doesn't come up."""

_UNKNOWN = -1  # the number of a version's weights that the learner hasn't, or not under that number

_log = logging.getLogger(__name__)


class PushThread:
    """Pushes the learner's weights and sees them answer, one push at a time; between pushes it refreshes rooms.

    While a push is under way nothing else is pushed; the next one has all that was learned meanwhile. What has failed
    (no server, no room for a version) is among the errors, and is tried again by the next `begin`.

    The methods are for the thread that learns. Only a first model is exported there: the export reads the model.

    Args:
        learner: Whose weights are pushed; it is told what was published.
        publisher, server: Where versions go.
        plan: Says which span a version's newest event belongs to.
        warmup_rows: Examples a warm-up request of a first model.
        newest: The version that the publisher goes on from. None if there is none.

    Attributes:
        serving: The version that answered last; None before the first.
        pushes, failed_pushes: How many there were.
    """

    def __init__(
        self,
        learner: StreamLearner,
        publisher: StreamPublisher,
        server: StreamServer,
        plan: SpanPlan,
        warmup_rows: int,
        newest: int | None = None,
    ) -> None:
        self._learner, self._publisher, self._server = learner, publisher, server
        self._plan, self._warmup_rows = plan, warmup_rows
        self._snapshot = WeightSnapshot(learner.trainer.ranker)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._push: Future[ServedVersion] | None = None
        self._refresh: Future[None] | None = None
        self._published: tuple[int, int] | None = None  # number of the weights and version, whether it answers or not
        if newest is not None:
            number = learner.published if learner.version == newest else None
            self._published = (_UNKNOWN if number is None else number, newest)
        self._mark = learner.mark  # of that version
        self.serving: ServedVersion | None = None
        self._foreign = False  # whether there is a newer version that can't be gone on from
        self.pushes = self.failed_pushes = 0
        self._example: dict[str, np.ndarray] | None = None
        self._files: list[str] = []
        self._errors: list[str] = []

    def take_example(self, window: ClosedWindow) -> None:
        """Keeps a window's first example to ask versions with, and its files to warm a first model up with."""
        self._example = {name: values[:1] for name, values in window.examples.items()}
        self._files = [path for path, _ in window.files]

    def take_errors(self) -> list[str]:
        """What has failed since the last call, in sentences."""
        errors, self._errors = self._errors, []
        return errors

    def begin(self, reasons: tuple[str, ...]) -> str:
        """Pushes if there is something to push and no push is under way; says which.

        Args:
            reasons: Why the weights may be served, for the version's manifest.
        """
        learner = self._learner
        if self._push is not None:
            return "under way"
        if self._foreign:
            self._begin_refresh()
            return "held back: another process has published a version that can't be gone on from"
        number, example = learner.number, self._example
        if self._published is not None and self._published[0] == number:
            if self.serving is None or self.serving.version != self._published[1] or self._server.has_ended:
                self.serve_again()
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
        weights = self._snapshot.update(learner.take_touched())
        manifest = self._manifest(reasons or ("these are the weights of before",))

        def push() -> ServedVersion:
            begin = time.monotonic()
            version = self._publisher.push(weights, manifest)
            self._is_published(number, version)
            return self._publisher.serve(version, number, example, time.monotonic() - begin)

        self._push = self._thread.submit(push)
        return "begun"

    def serve_again(self) -> None:
        """Makes the version that is there answer: after a restart, or where it didn't or its server has ended."""
        if self._published is not None:
            number, version = self._published
            self._push = self._thread.submit(self._publisher.serve, version, number, self._example)

    def collect(self) -> list[ServedVersion]:
        """What was pushed and answers since the last call."""
        if self._push is None or not self._push.done():
            return []
        push, self._push = self._push, None
        try:
            version = push.result()
        except _PUSH_ERRORS as error:
            self._failed(error)
            return []
        self.serving = version
        if version.number != _UNKNOWN:
            self._learner.mark_published(version.number, version.version, self._mark)
        return [version]

    def adopt_newer(self) -> dict[str, Any] | None:
        """If the pipeline has published a version meanwhile, its weights are gone on from; says so.

        What the loop has learned goes with that; windows that weren't published yet are counted.

        Returns:
            `version` and `windows_dropped`; None where nothing is adopted.
        """
        if self._push is not None:
            return None
        learner, version, adopted = self._learner, None, None
        try:
            version = self._publisher.newer_version()
            self._foreign = version is not None
            if version is None:
                return None
            folder = self._folder(version)
            if not learner.is_of(folder):
                adopted = {"version": version, "windows_dropped": learner.adopt(folder)}
                _log.warning("version %d was published by another process: going on from it", version)
            self._publisher.go_on_from(version)
            self._foreign, self._published, self._mark = False, (learner.number, version), learner.mark
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

    def finish(self, reasons: tuple[str, ...]) -> list[ServedVersion]:
        """Waits for the push that is under way, and pushes what isn't pushed yet; gives what answers since then."""
        served = self._wait()
        if self._published is None or self._published[0] != self._learner.number:
            self.begin(reasons)
            served += self._wait()
        return served

    def close(self) -> None:
        """Waits for what is under way, and closes the publisher."""
        self._thread.shutdown(wait=True)
        self._publisher.close()

    def _begin_first(self, number: int, example: dict[str, np.ndarray], manifest: dict[str, Any]) -> str:
        begin = time.monotonic()
        try:
            version = self._publisher.publish_first(
                self._learner.trainer.ranker, self._files, manifest, self._warmup_rows
            )
        except _PUSH_ERRORS as error:
            self._failed(error)
            return "failed"
        self._is_published(number, version)
        self._push = self._thread.submit(self._publisher.serve, version, number, example, time.monotonic() - begin)
        return "begun"

    def _begin_refresh(self) -> None:
        """Between pushes, the vectors of rooms that changed in the window."""
        if self._push is None and self.serving is not None and (self._refresh is None or self._refresh.done()):
            if self._refresh is not None and self._refresh.exception() is not None:
                self._errors.append(f"refreshing rooms failed: {self._refresh.exception()}")
            self._refresh = self._thread.submit(self._publisher.refresh)

    def _wait(self) -> list[ServedVersion]:
        if self._push is not None:
            wait([self._push])
        return self.collect()

    def _is_published(self, number: int, version: int) -> None:
        self._published, self._mark = (number, version), version_mark(self._folder(version))
        self._learner.lineage.published(number, version)
        self.pushes += 1

    def _folder(self, version: int) -> Path:
        return self._server.model_dir / self._server.model_name / str(version)

    def _failed(self, error: BaseException) -> None:
        self.failed_pushes += 1
        self._errors.append(f"push failed, it is tried again with the next window: {error}")
        _log.warning("push failed: %s", error)

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
