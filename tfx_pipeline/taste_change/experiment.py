"""The experiment of a taste change: users' preferences flip at noon; who learns it, and how soon."""

import dataclasses
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.simulator.simulation import simulate
from tfx_pipeline.memory import PeakMemory
from tfx_pipeline.near_real_time.trainer import StreamTrainer
from tfx_pipeline.ranker_settings import ranker_config
from tfx_pipeline.taste_change.config import NOON_MS, TasteChangeConfig
from tfx_pipeline.taste_change.examples import TasteChangeExamples, taste_change_examples
from tfx_pipeline.taste_change.recovery import RECOVERED, Recovery

NEAR_REAL_TIME, HOURLY = "near_real_time", "hourly"
HOUR_WINDOWS = 3_600_000 // WINDOW_MS
"""Windows from noon to the hourly pipeline's next model."""


def run_taste_change(
    config: TasteChangeConfig, folder: Path, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Simulates a log in which preferences flip at noon, and compares two models on it, window by window.

    Both start from one model that has learned all until shortly before noon, and are asked with the same features,
    those that the online store held at the time. The near-real-time model then learns each window of examples whose
    labels have arrived, as `foresight stream` does, and answers some seconds after the window's end. The hourly
    pipeline's model stays as it is until 13:00; if the log reaches that far, it learns the hour then, and answers as
    soon as the other one (a real pipeline needs minutes more).

    Two figures are taken of each task:

    - `served`, the scores that users got. An impression is scored by the newest model that answered at its time, so the
      delays of labels, windows and serving all count. Windows are those of the impression, 0 being the first one after
      noon.
    - `validated`, the loop's own progressive validation. The examples that arrive in a window are scored before they
      are learned from. Windows are those of arrival, 0 being the first one that holds examples of after noon.

    What "recovered" means is said in `Recovery`: GAUC is 80 % of the way back, on average over the three windows that
    follow the first three.

    Args:
        config: How large the experiment is.
        folder: Where the log goes while it is read, in a folder `data` that is removed afterwards.
        tell: Called with a line of text before each step.

    Returns:
        The figures, in JSON's types.

    Raises:
        ValueError: If `data` is there already.
    """
    begin = time.monotonic()
    tell = tell or (lambda line: None)
    with PeakMemory() as memory:
        examples = _examples(config, Path(folder) / "data", tell)
        comparison = _Comparison(config, examples, tell)
        comparison.run()
        tell("intervals of GAUC")
        tasks = {task: _figures(config, examples, comparison, task) for task in examples.schema.task_names}
        return {
            "config": dataclasses.asdict(config),
            "noon_ms": NOON_MS,
            "impressions": len(examples.shown),
            "learned_together": comparison.learned_together,
            "impressions_per_window": round(float(np.bincount(examples.shown[examples.shown >= 0]).mean())),
            "tasks": tasks,
            "seconds_to_learn_a_window": round(float(np.mean(comparison.learning_s)), 3),
            "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
            "wall_seconds": round(time.monotonic() - begin, 1),
            "peak_rss_mb": round(memory.megabytes),
        }


def _examples(config: TasteChangeConfig, data: Path, tell: Callable[[str], None]) -> TasteChangeExamples:
    tell(f"a log of {(config.history_s + config.after_s) / 60:.0f} minutes")
    simulate(config.simulator, data)
    try:
        tell("events to examples")
        return taste_change_examples(open_source("kuailive_m3", data), config)
    finally:
        shutil.rmtree(data)


class _Comparison:
    """Two models over the same examples, (B,) of them.

    Attributes:
        served: Model -> task -> (B,) scores that users got; NaN where neither was compared yet.
        validated: The same for scores before an example was learned.
        learned_together: Examples that both models have learned at the start.
        learning_s: Seconds to learn each window.
    """

    def __init__(self, config: TasteChangeConfig, examples: TasteChangeExamples, tell: Callable[[str], None]) -> None:
        self._config, self._examples, self._tell = config, examples, tell
        model = ranker_config(examples.schema, config.model)
        history = dataclasses.replace(config.history_training, seed=config.seed)
        self._hourly = StreamTrainer.new(model, history)
        self._learner = StreamTrainer.new(model, dataclasses.replace(config.training, seed=config.seed))

        def unknown() -> dict[str, dict[str, np.ndarray]]:
            return {
                name: {task: np.full(len(examples.shown), np.nan) for task in examples.schema.task_names}
                for name in (NEAR_REAL_TIME, HOURLY)
            }

        self.served, self.validated = unknown(), unknown()
        self.learned_together = 0
        self.learning_s: list[float] = []

    def run(self) -> None:
        """Goes through the windows."""
        examples, first = self._examples, -self._config.compared_windows
        known = examples.learned <= first
        self.learned_together = int(known.sum())
        self._tell(f"both models learn {self.learned_together:,} examples")
        self._hourly.train(examples.rows(known), key=first)
        self._learner.set_weights(self._hourly.ranker.get_weights())
        self._tell("window by window")
        for number in range(first, int(examples.answered.max()) + 1):
            if number > first:
                self._learn(number)
            self._score(examples.answered == number, self.served)

    def _learn(self, number: int) -> None:
        """What happens at the end of a window: `number` windows after noon."""
        arrived = self._examples.learned == number
        self._score(arrived, self.validated)
        begin = time.monotonic()
        self._learner.train(self._examples.rows(arrived), key=NOON_MS + number * WINDOW_MS)
        self.learning_s.append(time.monotonic() - begin)
        if number == HOUR_WINDOWS:
            self._tell("the hourly model learns its hour")
            hour = (self._examples.learned > 0) & (self._examples.learned <= number)
            self._hourly.train(self._examples.rows(hour), key=number)

    def _score(self, which: np.ndarray, into: dict[str, dict[str, np.ndarray]]) -> None:
        if not which.any():
            return
        rows = self._examples.rows(which)
        for name, model in ((NEAR_REAL_TIME, self._learner), (HOURLY, self._hourly)):
            for task, scores in model.score(rows).items():
                into[name][task][which] = scores


def _figures(
    config: TasteChangeConfig, examples: TasteChangeExamples, comparison: _Comparison, task: str
) -> dict[str, Any]:
    labels = examples.labels(task)
    first_of_change = int(examples.learned[examples.shown >= 0].min())
    figures: dict[str, Any] = {
        "rate_before": float(labels[examples.shown < 0].mean()),
        "rate_after": float(labels[examples.shown >= 0].mean()),
    }
    for name, windows, scores, hour in (
        ("served", examples.shown, comparison.served, HOUR_WINDOWS),
        ("validated", examples.learned - first_of_change, comparison.validated, HOUR_WINDOWS - first_of_change),
    ):
        by_model = {model: by_task[task] for model, by_task in scores.items()}
        recovery = Recovery(
            examples.columns["user_id"], windows, labels, by_model, HOURLY, config.resamples, config.seed
        )
        level, fall, last = recovery.level(NEAR_REAL_TIME).value, recovery.fall.value, int(recovery.windows[-1])
        figures[name] = {
            "windows": recovery.windows.tolist(),
            "fall": recovery.fall.to_json(),
            "threshold": fall + RECOVERED * (level - fall),
            "hourly_window": hour if last >= hour else None,
            "reversed_share": recovery.reversed_share.to_json(),
            "hourly_best_share": recovery.best_share(HOURLY, min(last + 1, hour)),
            **{model: recovery.to_json(model) for model in (NEAR_REAL_TIME, HOURLY)},
        }
    return figures
