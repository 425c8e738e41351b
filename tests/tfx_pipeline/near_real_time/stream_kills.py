"""A learner that follows a stream in a process of its own and is killed at any place, and what it leaves."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

from beam_transforms.labels import FastWindow
from beam_transforms.local_stream import LocalStream
from beam_transforms.spans import SpanPlan
from tests.beam_transforms.live_logs import CODEBOOK, SCHEMA, follow
from tfx_pipeline.near_real_time.config import StreamGateConfig, StreamTrainingConfig
from tfx_pipeline.near_real_time.learner import StreamLearner
from tfx_pipeline.near_real_time.trainer import StreamTrainer
from tfx_pipeline.ranker_settings import ranker_config

MODEL = {"variant": "base", "user_bins": 50, "author_bins": 20, "expert_units": [8, 8], "experts": 2}


class LearnerProcess:
    """Runs a learner over a followed directory, in processes forked from one with everything imported."""

    def __init__(self, live: Path) -> None:
        self._live = live
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.tfx_pipeline.near_real_time.stream_kills"])

    def run(self, folder: Path, steps: int | None = None, seconds: float | None = None) -> bool:
        """Goes on until the stream ends or the process is killed; says whether it ended.

        Args:
            steps: After so many file operations and the like (audit events) the process kills itself with SIGKILL.
            seconds: So long after the first window that it learned from, which traces the step, it does, anywhere.
        """
        process = self._context.Process(target=_run, args=(self._live, folder, steps, seconds))
        process.start()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the learner ended with {process.exitcode}, expected 0 or {-signal.SIGKILL}")
        return process.exitcode == 0


def _run(live: Path, folder: Path, steps: int | None, seconds: float | None) -> None:
    left, counted = steps, 0
    trainer = StreamTrainer.new(ranker_config(SCHEMA, MODEL), StreamTrainingConfig(batch_size=16, scoring_rows=16))
    counting = threading.Event()

    def count(event: str, arguments: object) -> None:
        nonlocal left, counted
        if counting.is_set() and event in ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir"):
            counted += 1
            if left is not None:
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    def kill_later() -> None:
        time.sleep(seconds or 0)
        os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    counting.set()
    learner = StreamLearner(trainer, folder / "stream", StreamGateConfig(fewest_windows=2))
    policy = FastWindow(120, {"ctr": 30})
    stream = LocalStream(follow(live), folder, SCHEMA, SpanPlan(600_000), policy, CODEBOOK, folder / "store", 60_000)
    begin = None
    for window in stream.windows():
        learned = learner.learn(window)
        if begin is None and learned.steps:
            begin = time.monotonic()
            if seconds is not None:
                threading.Thread(target=kill_later, daemon=True).start()
    counting.clear()
    (folder / "end.json").write_text(
        json.dumps({"steps": counted, "seconds": time.monotonic() - (begin or 0), "learned": learner.windows})
    )
