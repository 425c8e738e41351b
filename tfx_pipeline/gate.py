"""Decides whether a model is pushed, and says why. Pure functions on the figures of `tfx_pipeline.evaluation`."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tfx_pipeline.config import EVERY_TASK, METRICS, GateConfig

BLESSED = "blessed"
REJECTED = "rejected"


@dataclasses.dataclass(frozen=True)
class Decision:
    """The gate's answer.

    Attributes:
        decision: "blessed" or "rejected".
        reasons: Why, in sentences: what failed if rejected, what was checked if blessed.
        notes: What couldn't be judged, in sentences.
    """

    decision: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def blessed(self) -> bool:
        return self.decision == BLESSED


def decide(tasks: Mapping[str, Mapping[str, Any]], config: GateConfig, no_baseline: str | None = None) -> Decision:
    """Judges a candidate.

    Args:
        tasks: Task -> its figures, as `evaluation.evaluate` gives them: `positives`, each metric, and with a baseline
            `difference` -> metric -> {"value", "low", "high"}. None stands for "not defined".
        config: The thresholds.
        no_baseline: Why there is nothing to compare with, in words; None if there is a baseline.

    Raises:
        ValueError: If the thresholds name a task that isn't there.
    """
    require_tasks(tuple(tasks), config)
    values: list[_Check] = []
    changes: list[_Check] = []
    notes: list[str] = []
    for task, figures in tasks.items():
        if not figures["finite"]:
            values.append(_Check(False, f"{task}: the model's scores are not all finite numbers"))
        elif figures["positives"] < config.fewest_positives:
            notes.append(
                f"{task} was not judged: {figures['positives']} positive labels, fewer than {config.fewest_positives}"
            )
        else:
            values += _value_checks(task, figures, config, notes)
            changes += [] if no_baseline else _change_checks(task, figures, config)
    failures = tuple(check.failure for check in (*values, *changes) if not check.passed)
    if failures:
        return Decision(REJECTED, failures, tuple(notes))
    if not values and not changes:
        return Decision(REJECTED, ("nothing could be judged",), tuple(notes))
    return Decision(
        BLESSED,
        (
            f"{len(values)} of {len(values)} figures are at or above their smallest value",
            f"judged by value alone: {no_baseline}"
            if no_baseline
            else f"no loss beyond its threshold is proven in {len(changes)} comparisons with the baseline",
        ),
        tuple(notes),
    )


def require_tasks(tasks: Sequence[str], config: GateConfig) -> None:
    """Raises ValueError if the thresholds name a task that isn't one of `tasks`."""
    for name, thresholds in (("smallest_value", config.smallest_value), ("largest_loss", config.largest_loss)):
        for metric, by_task in thresholds.items():
            unknown = sorted(set(by_task) - set(tasks) - {EVERY_TASK})
            if unknown:
                raise ValueError(f"gate: {name}: {metric} has thresholds for {unknown}; the tasks are {list(tasks)}")


class _Check(NamedTuple):
    passed: bool
    failure: str


def _value_checks(task: str, figures: Mapping[str, Any], config: GateConfig, notes: list[str]) -> Iterator[_Check]:
    for metric in METRICS:
        smallest, value = _threshold(config.smallest_value, metric, task), figures[metric]
        if smallest is None:
            continue
        if value is None:
            notes.append(f"{task} {metric} was not judged: it is not defined on these examples")
        else:
            yield _Check(value >= smallest, f"{task} {metric} is {value:.4f}, below the smallest value {smallest:g}")


def _change_checks(task: str, figures: Mapping[str, Any], config: GateConfig) -> Iterator[_Check]:
    for metric in METRICS:
        largest, difference = _threshold(config.largest_loss, metric, task), figures["difference"][metric]
        if largest is not None and difference["high"] is not None:
            yield _Check(
                difference["high"] >= -largest,
                f"{task} {metric} changed by {difference['value']:+.4f} against the baseline, 95 % interval "
                f"{difference['low']:+.4f} to {difference['high']:+.4f}: a loss of more than {largest:g} is proven",
            )


def _threshold(thresholds: Mapping[str, Mapping[str, float]], metric: str, task: str) -> float | None:
    of_metric = thresholds.get(metric, {})
    return of_metric.get(task, of_metric.get(EVERY_TASK))
