"""Progressive validation: how good scores were that were given before anything was learned from the examples."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_models.metrics import grouped_auc

Figures = dict[str, dict[str, Any]]
"""Task -> `rows`, `positives`, `auc`, `gauc`, `uauc`, `loss` and `finite`; None where a figure isn't defined."""


@dataclasses.dataclass(frozen=True)
class ScoredWindow:
    """A window's examples as far as figures need them, B rows and K tasks.

    Attributes:
        users: int64 (B,).
        labels: bool (B, K).
        counts: bool (B, K), whether a row counts for a task: its label is known. Rows that take back a label learned
            before (negative weight) don't: they say nothing new about the user.
        scores: float32 (B, K).
    """

    users: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(
        cls, examples: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray], tasks: Sequence[str]
    ) -> "ScoredWindow":
        """From examples, with `user_id`, `label`, `label_mask` and `label_weight`, and task -> scores (B,)."""
        return cls(
            np.asarray(examples["user_id"], np.int64).reshape(-1),
            examples["label"] > 0.5,
            (examples["label_mask"] > 0) & (examples["label_weight"] > 0),
            np.stack([np.asarray(scores[task], np.float32) for task in tasks], axis=1),
        )


class ProgressiveValidation:
    """AUC, GAUC and UAUC of a window and of the trailing windows, exact on kept scores.

    Args:
        tasks: Their names.
        windows: How many windows with examples are the trailing ones.
        examples: Rows kept at most: the oldest windows go, whole, but never the newest.

    Raises:
        ValueError: If a number isn't positive.
    """

    def __init__(self, tasks: Sequence[str], windows: int = 20, examples: int = 50_000) -> None:
        if windows < 1 or examples < 1:
            raise ValueError(f"windows and examples must be at least 1, got {windows} and {examples}")
        self.tasks, self._windows, self._examples = tuple(tasks), windows, examples
        self._kept: collections.deque[ScoredWindow] = collections.deque()

    def __len__(self) -> int:
        """Windows that are kept."""
        return len(self._kept)

    def add(self, window: ScoredWindow) -> None:
        """Takes in a window; one without examples changes nothing."""
        if not len(window.users):
            return
        self._kept.append(window)
        while len(self._kept) > 1 and (
            len(self._kept) > self._windows or sum(len(kept.users) for kept in self._kept) > self._examples
        ):
            self._kept.popleft()

    def clear(self) -> None:
        """Keeps nothing any more."""
        self._kept.clear()

    def newest(self, count: int) -> list[ScoredWindow]:
        """So many windows that were taken in last, the oldest first."""
        return list(self._kept)[len(self._kept) - count :]

    def trailing(self) -> Figures:
        """Figures over all that is kept."""
        return figures(self._all(), self.tasks)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is kept, by name, for `restore`."""
        joined = self._all()
        lengths = np.array([len(window.users) for window in self._kept], np.int64)
        return {f"validation/{n}": array for n, array in {**vars(joined), "lengths": lengths}.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes up what `arrays` gave.

        Raises:
            ValueError: If it is of other tasks.
        """
        columns = [arrays[f"validation/{field.name}"] for field in dataclasses.fields(ScoredWindow)]
        if columns[1].shape[1] != len(self.tasks):
            raise ValueError(f"kept scores are of {columns[1].shape[1]} tasks, expected {len(self.tasks)}")
        self._kept.clear()
        cuts = np.cumsum(arrays["validation/lengths"])[:-1]
        if len(arrays["validation/lengths"]):
            parts = zip(*(np.split(column, cuts) for column in columns), strict=True)
            self._kept.extend(ScoredWindow(*part) for part in parts)

    def _all(self) -> ScoredWindow:
        empty = np.zeros((0, len(self.tasks)))
        nothing = ScoredWindow(np.zeros(0, np.int64), empty.astype(bool), empty.astype(bool), empty.astype(np.float32))
        return joined([nothing, *self._kept])


def joined(windows: Sequence[ScoredWindow]) -> ScoredWindow:
    """Windows, at least one, as one."""
    return ScoredWindow(
        *(np.concatenate([getattr(w, field.name) for w in windows]) for field in dataclasses.fields(ScoredWindow))
    )


def figures(window: ScoredWindow, tasks: Sequence[str]) -> Figures:
    """Task -> figures of its rows; `loss` is the mean binary cross-entropy."""
    found: Figures = {}
    for column, task in enumerate(tasks):
        rows = window.counts[:, column]
        labels, scores = window.labels[rows, column], window.scores[rows, column]
        finite = bool(np.isfinite(scores).all())
        of_task: dict[str, Any] = {"rows": int(rows.sum()), "positives": int(labels.sum()), "finite": finite}
        of_task |= dict.fromkeys(("auc", "gauc", "uauc", "loss"))
        if finite and len(labels):
            grouped = grouped_auc(window.users[rows], labels.astype(np.int8), scores)
            of_task |= {name: _number(getattr(grouped, name)) for name in ("auc", "gauc", "uauc")}
            of_task["loss"] = cross_entropy(labels, scores)
        found[task] = of_task
    return found


def cross_entropy(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean binary cross-entropy of scores (B,), kept off 0 and 1 by what float32 can tell."""
    scores = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels, np.log(scores), np.log1p(-scores))))


def mean_loss(found: Figures) -> float | None:
    """Mean of the tasks' losses; None if none is defined, NaN if a score isn't finite."""
    if not all(of_task["finite"] for of_task in found.values()):
        return math.nan
    losses = [of_task["loss"] for of_task in found.values() if of_task["loss"] is not None]
    return sum(losses) / len(losses) if losses else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
