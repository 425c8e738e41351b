"""What label policies do to the near-real-time loop: the scores that users get, and what progressive validation says.

Simulates a platform whose tastes stay as they are, from noon on, and takes its log through the stream's stages once a
policy, in memory. All models start from one that has learned the first hours. Then, window by window, each scores the
examples whose labels arrive (`validated`, what the loop sees of itself), learns these, and scores the
impressions that it answers (`served`, what users get). Served scores are judged by what followed in five minutes,
whatever the policy. Figures are those of the last third of the hours, `by_hour` has all of them. The loop's gate, which
goes by what is validated, is left out.

What to read with care: `sliver` learns the tasks behind the click only from impressions that were clicked.
"""

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from beam_transforms.columnar import Columns, take
from beam_transforms.labels import FastWindow, LabelPolicy
from beam_transforms.schema import WINDOW_MS, Task
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.simulator import PRESETS, SimulatorConfig, simulate
from benchmarks.harness import figure, goal, report
from tfx_pipeline.near_real_time.config import StreamConfig, StreamTrainingConfig
from tfx_pipeline.near_real_time.label_policy import label_policy
from tfx_pipeline.near_real_time.progressive_validation import Figures, ScoredWindow, figures, joined
from tfx_pipeline.near_real_time.trainer import StreamTrainer
from tfx_pipeline.ranker_settings import ranker_config
from tfx_pipeline.taste_change.examples import log_tables, streamed_examples

OPTIONS: list[click.Option] = [
    click.Option(["--users"], type=click.IntRange(1), default=6500, show_default=True, help="Of the platform."),
    click.Option(["--authors"], type=click.IntRange(1), default=420, show_default=True, help="Of the platform."),
    click.Option(["--base-hours"], type=click.IntRange(1), default=4, show_default=True, help="Learned by all models."),
    click.Option(["--hours"], type=click.IntRange(1), default=8, show_default=True, help="After these: in windows."),
    click.Option(["--seeds"], type=click.IntRange(1), default=1, show_default=True, help="Runs, one a seed."),
]

TASKS = ("ctr", "evtr", "ltr")
FROZEN, DEFAULT = "none", "default"
SERVED, VALIDATED = "served", "validated"

_NOON_H = 12
_HOUR_WINDOWS = 3_600_000 // WINDOW_MS
_JUDGED_S = 300.0
_SERVING_MS = 5_000
"""From a window's end to the first answer of the model that has learned it."""

_MODEL = {"variant": "base", "user_bins": 16_384, "author_bins": 2_048}
_BASE = StreamTrainingConfig(batch_size=512, passes=2, most_steps=1_000_000, learning_rate=2e-3)
_FIGURES = {"auc": "AUC", "gauc": "GAUC", "loss": "log loss"}
_DELAYS = ("median seconds to a positive label", "median seconds to a negative label")


def policies(tasks: tuple[Task, ...]) -> dict[str, LabelPolicy]:
    """Those that are compared, with the options that the loop gives them."""
    configs = {
        DEFAULT: StreamConfig(),
        "fast_window 300 s": StreamConfig(policy_options={"window_s": _JUDGED_S, "task_window_s": {}}),
        "first_only": StreamConfig(policy="first_only"),
        "sliver": StreamConfig(policy="sliver"),
    }
    return {name: label_policy(config, tasks) for name, config in configs.items()}


def run(users: int = 6500, authors: int = 420, base_hours: int = 4, hours: int = 8, seeds: int = 1) -> dict[str, Any]:
    """AUC, GAUC and log loss of what is served and validated, and seconds to labels, by policy and task."""
    samples: dict[str, list[float]] = {}
    by_hour = []
    for seed in range(seeds):
        platform = dataclasses.replace(
            PRESETS["demo"],
            users=users,
            authors=authors,
            start_ms=PRESETS["demo"].start_ms + 3_600_000 * _NOON_H,
            duration_s=3600 * (base_hours + hours),
            seed=seed,
        )
        found, of_hours = _measure(platform, base_hours, seed)
        by_hour.append(of_hours)
        for name, value in found.items():
            samples.setdefault(name, []).append(value)
    goals = [
        goal(f"{of}: seconds between the median delays of positives and of negatives", _gaps(samples, of), "<=", 0.0)
        for of in (f"{DEFAULT}, {task}" for task in TASKS)
    ]
    measured = [figure(name, values) for name, values in samples.items()]
    return {**report("label-delay", goals, "tensorflow", "keras", figures=measured), "by_hour": by_hour}


def _measure(platform: SimulatorConfig, base_hours: int, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Name -> figure of the last third; and policy -> what -> figures of each hour."""
    with tempfile.TemporaryDirectory() as folder:
        simulate(platform, Path(folder))
        source = open_source("kuailive_m3", Path(folder))
        tables = log_tables(source)
    schema = dataclasses.replace(
        source.schema,
        tasks=tuple(task for task in source.schema.tasks if task.name in TASKS),
        sequence_length=2,  # the ranker has no forecasters here: what a room shows next isn't what is measured
        horizon=1,
    )
    numbers = range(platform.start_ms // WINDOW_MS + base_hours * _HOUR_WINDOWS, platform.end_ms // WINDOW_MS)
    judged = streamed_examples(tables, schema, FastWindow(_JUDGED_S), platform.end_ms)
    asked = _by_window(judged, (judged["timestamp_ms"] - _SERVING_MS) // WINDOW_MS)
    model = ranker_config(schema, _MODEL)
    base = StreamTrainer.new(model, dataclasses.replace(_BASE, seed=seed))
    base.train(take(judged, _arrived(judged) <= numbers.start))
    learner = StreamTrainer.new(model, dataclasses.replace(StreamConfig().training, seed=seed))
    learner.set_weights(base.ranker.get_weights())
    state = learner.state()
    found: dict[str, float] = {}
    by_hour: dict[str, Any] = {}
    for name, policy in {FROZEN: None, **policies(schema.tasks)}.items():
        arriving: dict[int, Columns] = {}
        if policy is not None:
            examples = streamed_examples(tables, schema, policy, platform.end_ms)
            examples = take(examples, _arrived(examples) > numbers.start)
            found |= {f"{name}, {what}": seconds for what, seconds in _delays(examples).items()}
            arriving = _by_window(examples, _arrived(examples))
        learner.set_state(state)
        scored = {what: by for what, by in _follow(learner, asked, arriving, numbers).items() if by}
        for what, by_window in scored.items():
            for task, of_task in _of(by_window, numbers[len(numbers) * 2 // 3 :]).items():
                found |= {f"{name}, {task}: {what} {title}": of_task[key] for key, title in _FIGURES.items()}
        begins = range(0, len(numbers), _HOUR_WINDOWS)
        by_hour[name] = {
            what: [_of(by_window, numbers[begin : begin + _HOUR_WINDOWS]) for begin in begins]
            for what, by_window in scored.items()
        }
    _require_defined(found)
    return found, by_hour


def _follow(
    learner: StreamTrainer, asked: Mapping[int, Columns], arriving: Mapping[int, Columns], numbers: range
) -> dict[str, dict[int, ScoredWindow]]:
    """Goes through the windows: what has arrived is scored, then learned; who is asked then gets what that gave."""
    scored: dict[str, dict[int, ScoredWindow]] = {SERVED: {}, VALIDATED: {}}
    for number in numbers:
        if number in arriving:
            scored[VALIDATED][number] = ScoredWindow.of(arriving[number], learner.score(arriving[number]), TASKS)
            learner.train(arriving[number], key=number * WINDOW_MS)
        if number in asked:
            scored[SERVED][number] = ScoredWindow.of(asked[number], learner.score(asked[number]), TASKS)
    return scored


def _of(scored: Mapping[int, ScoredWindow], numbers: Iterable[int]) -> Figures:
    """Figures over all rows of these windows; nothing if there is none."""
    windows = [scored[number] for number in numbers if number in scored]
    return figures(joined(windows), TASKS) if windows else {}


def _arrived(examples: Columns) -> np.ndarray:
    """(B,) number of the window at whose begin each example's labels are there."""
    return -(-(examples["emitted_ms"] + round(1000 * StreamConfig().lateness_s)) // WINDOW_MS)


def _by_window(examples: Columns, numbers: np.ndarray) -> dict[int, Columns]:
    """The rows of each window; `numbers`: (B,)."""
    order = np.argsort(numbers, kind="stable")
    distinct, begins = np.unique(numbers[order], return_index=True)
    parts = np.split(order, begins[1:])
    return {int(number): take(examples, rows) for number, rows in zip(distinct, parts, strict=True)}


def _delays(examples: Columns) -> dict[str, float]:
    """Median seconds from impression to label, of positives and of negatives; NaN where there is none."""
    delay_s = (examples["emitted_ms"] - examples["timestamp_ms"]) / 1000
    found = {}
    for column, task in enumerate(TASKS):
        counts, positive = examples["label_mask"][:, column] > 0, examples["label"][:, column] > 0.5
        for name, of_class in zip(_DELAYS, (positive, ~positive), strict=True):
            seconds = delay_s[counts & of_class]
            found[f"{task}: {name}"] = float(np.median(seconds)) if len(seconds) else float("nan")
    return found


def _gaps(samples: Mapping[str, list[float]], of: str) -> list[float]:
    """Seconds between the median delays of positives and negatives, one a run."""
    positive, negative = (samples[f"{of}: {name}"] for name in _DELAYS)
    return [abs(one - other) for one, other in zip(positive, negative, strict=True)]


def _require_defined(found: Mapping[str, float | None]) -> None:
    undefined = [name for name, value in found.items() if value is None or np.isnan(value)]
    if undefined:
        raise click.ClickException(
            f"{len(undefined)} figures aren't defined, such as {undefined[0]!r}: "
            "both classes have to occur in the last third; simulate more users or hours"
        )
