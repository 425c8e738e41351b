"""The gate of the fast path: decides after each window, and says why. Pure functions on figures of progressive
validation."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tfx_pipeline.gate import BLESSED, REJECTED, Decision
from tfx_pipeline.near_real_time.config import StreamGateConfig
from tfx_pipeline.near_real_time.progressive_validation import Figures, mean_loss
from tfx_pipeline.near_real_time.score_history import judgeable


@dataclasses.dataclass(frozen=True)
class Trailing:
    """What the trailing windows were like.

    Attributes:
        level: Task -> AUC of scores that were given before learning, at its best since the world changed last; of tasks
            that could be judged.
        windows: How many windows were scored so far.
        losses: Of windows with enough examples, by name: `before` learning and `after` it, mean cross-entropy of the
            tasks, and in `train`ing.
    """

    level: Mapping[str, float]
    windows: int
    losses: Mapping[str, Sequence[float]]

    def median(self, name: str, config: StreamGateConfig) -> float | None:
        """Of these losses; None as long as too few are known."""
        losses = self.losses[name]
        return statistics.median(losses) if len(losses) >= config.fewest_windows else None


class JudgedScores(NamedTuple):
    """What scores say of the current model.

    Attributes:
        decision: Whether it may be gone on from.
        good: Whether it becomes the last good model.
        changed: Whether the world has changed: figures fell, and the last good model does no better at all. What was
            reached before is no measure any more.
    """

    decision: Decision
    good: bool
    changed: bool = False


def judge_scores(
    window: Figures,
    enough: Figures,
    examples: int,
    trailing: Trailing,
    of_good: Callable[[], tuple[Figures, Figures]] | None,
    config: StreamGateConfig,
) -> JudgedScores:
    """Judges the model as it is before it learns from a window: is it still as good as it was?

    It becomes the last good model only if it is proven to be: a task was judged, and none lies more than a standard
    error below the level. So a model that gets worse bit by bit is compared with the one from before that.

    Args:
        window: Figures of the window, by the current model.
        enough: The same, of this window and so many before it as a task takes to be judged.
        examples: Of the window.
        trailing: What it is compared with.
        of_good: Gives `window` and `enough` by the last good model; None if that is the current one.
        config: Thresholds.
    """
    broken = [task for task, figures in window.items() if not figures["finite"]]
    if broken:
        reasons = tuple(f"{task}: the model's scores are not all finite numbers" for task in broken)
        return JudgedScores(Decision(REJECTED, reasons), False)
    if trailing.windows < config.fewest_windows:
        reason = f"judged by finite numbers alone: {trailing.windows} windows before, {config.fewest_windows} needed"
        return JudgedScores(Decision(BLESSED, (reason,)), True)
    judged, lower, fallen, notes = 0, [], [], []
    for task, figures in enough.items():
        level = trailing.level.get(task)
        if not judgeable(figures, config) or level is None:
            notes.append(
                f"{task} was not judged: {figures['positives']} positive of {figures['rows']} labels, "
                f"{config.fewest_positives} of each class needed"
            )
            continue
        judged += 1
        error = auc_standard_error(figures["auc"], figures["positives"], figures["rows"] - figures["positives"])
        if figures["auc"] < level - error:
            lower.append(task)
        if figures["auc"] < level - config.largest_fall - config.standard_errors * error:
            fallen.append(task)
    loss, median = mean_loss(window), trailing.median("before", config)
    if median is None or loss is None or examples < config.fewest_examples:
        median = loss = None
    risen = median is not None and loss is not None and loss > config.largest_loss_factor * median
    if not fallen and not risen:
        reason = f"AUC of {judged} of {len(enough)} tasks judged, none fell by more than allowed"
        return JudgedScores(Decision(BLESSED, (reason,), tuple(notes)), judged > 0 and not lower)
    good = of_good() if of_good is not None else None
    worse: list[str] = []
    as_good = good is not None
    for task in fallen:
        reference = good[1][task]["auc"] if good is not None else None
        fall = f"{task} AUC fell to {enough[task]['auc']:.4f} from {trailing.level[task]:.4f} before"
        advantage = None if reference is None else reference - enough[task]["auc"]
        as_good = as_good and (advantage is None or advantage <= 0)
        _compare(worse, notes, fall, reference, advantage is not None and advantage > config.smallest_advantage)
    if risen and loss is not None:
        reference = mean_loss(good[0]) if good is not None else None
        as_good = as_good and (reference is None or reference >= loss)
        rise = f"the loss before learning rose to {loss:.4f}, the median of the windows before is {median:.4f}"
        _compare(worse, notes, rise, reference, reference is not None and reference < loss / 2)
    if worse:
        return JudgedScores(Decision(REJECTED, tuple(worse), tuple(notes)), False)
    reason = "figures fell, and the last good model does no better"
    return JudgedScores(Decision(BLESSED, (reason,), tuple(notes)), as_good, as_good)


def no_worse(current: Figures, good: Figures, config: StreamGateConfig) -> bool:
    """Whether the current model is as good in each task that can be judged, and there is one, as the last good one.

    Args:
        current, good: Figures of the same windows, by the one and the other.
        config: Thresholds.
    """
    tasks = [task for task, found in current.items() if judgeable(found, config)]
    return bool(tasks) and all((good[task]["auc"] or 0.0) <= current[task]["auc"] for task in tasks)


def _compare(worse: list[str], notes: list[str], what: str, reference: float | None, is_better: bool) -> None:
    if reference is None:
        notes.append(f"{what}; there is no other good model to go back to")
    elif is_better:
        worse.append(f"{what}; the last good model has {reference:.4f} on the same examples")
    else:
        notes.append(f"{what}; the last good model has {reference:.4f} on the same examples: the world has changed")


def judge_training(
    train_loss: float,
    loss_before: Figures,
    loss_after: float | None,
    examples: int,
    trailing: Trailing,
    config: StreamGateConfig,
) -> Decision:
    """Judges what learning from a window made of the model.

    Where the tasks' loss was high before learning already, it may be so afterwards: that is a world that has changed.

    Args:
        train_loss: Mean of the steps' losses: those of the tasks, and the forecasters' own.
        loss_before: Figures of the window before learning.
        loss_after: Mean cross-entropy of the window's tasks by the model that has learned from them; NaN for scores
            that aren't finite, None if no label is known.
        examples: Of the window.
        trailing: What losses are compared with.
        config: Thresholds.
    """
    compared = 0
    failures = []
    before = [figures["loss"] for figures in loss_before.values() if figures["loss"] is not None]
    factor = config.largest_loss_factor
    for name, loss, kind in (
        ("the loss in training", train_loss, "train"),
        ("the loss on the window's examples afterwards", loss_after, "after"),
    ):
        median = trailing.median(kind, config)
        if loss is None:
            continue
        if not math.isfinite(loss):
            failures.append(f"{name} is not a finite number")
        elif median is not None and examples >= config.fewest_examples:
            compared += 1
            of_tasks = sum(before) if kind == "train" else sum(before) / max(len(before), 1)
            # Labels that are taken back give losses below 0, which grow without end where they diverge.
            limit = factor * abs(median) + of_tasks if kind == "train" else factor * max(median, of_tasks)
            if abs(loss) > limit > 0:
                failures.append(
                    f"{name} is {loss:.4f}, more than {factor:g} times the median {median:.4f} of "
                    f"{len(trailing.losses[kind])} windows"
                )
    if failures:
        return Decision(REJECTED, tuple(failures))
    if not compared:
        return Decision(BLESSED, ("losses are finite; too little is known to compare them",))
    return Decision(BLESSED, (f"{compared} losses are finite and within {factor:g} times the median",))


def judge_first(level: Figures, windows: Mapping[str, int], config: StreamGateConfig) -> Decision:
    """Judges a model that nothing was published of before: by value alone, on the trailing windows.

    Args:
        level: Figures of the trailing windows.
        windows: Task -> windows that had a label of it. A ranking adds all tasks up, so each has to have learned.
        config: How many windows, and which value.
    """
    fewest = min(windows.values(), default=0)
    if fewest < config.first_after_windows:
        behind = ", ".join(task for task, count in windows.items() if count == fewest)
        return Decision(
            REJECTED,
            (
                f"a first model learns from {config.first_after_windows} windows with labels of each task before it is "
                f"judged: {fewest} with labels of {behind}",
            ),
        )
    judged = {task: figures for task, figures in level.items() if judgeable(figures, config)}
    if not judged:
        return Decision(REJECTED, ("nothing could be judged: no task has enough labels of both classes",))
    low = [task for task, figures in judged.items() if figures["auc"] < config.smallest_auc]
    if low:
        return Decision(
            REJECTED,
            tuple(f"{t} AUC is {judged[t]['auc']:.4f}, below the smallest value {config.smallest_auc:g}" for t in low),
        )
    return Decision(
        BLESSED, (f"AUC of {len(judged)} tasks is at or above {config.smallest_auc:g} over {fewest} windows",)
    )


def auc_standard_error(auc: float, positives: int, negatives: int) -> float:
    """Of an AUC of so many rows, by Hanley and McNeil (Radiology 143, 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))
