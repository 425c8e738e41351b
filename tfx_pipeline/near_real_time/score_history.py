"""ScoreHistory: scores that were given before learning, as far as the gate compares with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfx_pipeline.near_real_time.config import StreamGateConfig
from tfx_pipeline.near_real_time.progressive_validation import (
    Figures,
    ProgressiveValidation,
    ScoredWindow,
    figures,
    joined,
)

_GOOD = "by_good/"


class ScoreHistory:
    """The trailing windows; the newest of them, those since the last good model, by that one too; and the level.

    The level of a task is the best AUC that the trailing windows have had. It doesn't sink along with a model that gets
    worse bit by bit; it is let go of where the world has changed.

    Args:
        tasks: Their names.
        gate: How much is kept, and how many labels a figure takes.
    """

    def __init__(self, tasks: Sequence[str], gate: StreamGateConfig) -> None:
        self._tasks, self._gate = tuple(tasks), gate
        self._windows = ProgressiveValidation(tasks, gate.trailing_windows, gate.trailing_examples)
        self._by_good = ProgressiveValidation(tasks, gate.trailing_windows, gate.trailing_examples)
        self._trailing: Figures | None = None
        self.level: dict[str, float] = {}
        self.count = 0  # windows that were ever taken in: fewer are kept
        self.labelled = dict.fromkeys(self._tasks, 0)  # of those, the windows that had a label of each task

    def trailing(self) -> Figures:
        """Figures over the trailing windows."""
        if self._trailing is None:
            self._trailing = self._windows.trailing()
        return self._trailing

    def add(self, scored: ScoredWindow, by_good: ScoredWindow | None) -> None:
        """Takes in a window, scored by the current model and by the last good one; None where that is the current."""
        self._windows.add(scored)
        if by_good is not None:
            self._by_good.add(by_good)
        self.count += 1
        for column, task in enumerate(self._tasks):
            self.labelled[task] += bool(scored.counts[:, column].any())
        self._trailing = None
        if self.count >= self._gate.fewest_windows:
            for task, found in self.trailing().items():
                if judgeable(found, self._gate):
                    self.level[task] = max(found["auc"], self.level.get(task, 0.0))

    def enough(self, newest: ScoredWindow, by_good: bool = False) -> Figures:
        """Figures of a window, or of as many windows since the last good model as a task takes to be judged.

        Args:
            newest: The window; it isn't taken in.
            by_good: Whether it, and the windows before, are scored by the last good model.
        """
        windows = [*self._since_good(by_good), newest]
        taken = {task: self._taken(windows, column) for column, task in enumerate(self._tasks)}
        found = {count: figures(joined(windows[-count:]), self._tasks) for count in set(taken.values())}
        return {task: found[count][task] for task, count in taken.items()}

    def since_good(self, newest: ScoredWindow, by_good: bool = False) -> Figures:
        """The same of all windows since then."""
        return figures(joined([*self._since_good(by_good), newest]), self._tasks)

    def forget_good(self) -> None:
        """The current model and the last good one are the same from now on."""
        self._by_good.clear()

    def facts(self) -> dict[str, Any]:
        """What isn't in arrays, in JSON's types, for `restore`."""
        return {"level": self.level, "count": self.count, "labelled": self.labelled}

    def arrays(self) -> dict[str, np.ndarray]:
        """What is kept, by name, for `restore`."""
        good = {_GOOD + name: array for name, array in self._by_good.arrays().items()}
        return {**self._windows.arrays(), **good}

    def restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Takes up what `facts` and `arrays` gave.

        Raises:
            ValueError: If it is of other tasks.
        """
        self._windows.restore(arrays)
        self._by_good.restore({n.removeprefix(_GOOD): array for n, array in arrays.items() if n.startswith(_GOOD)})
        self.level, self.count, self.labelled = dict(facts["level"]), facts["count"], dict(facts["labelled"])
        self._trailing = None

    def _since_good(self, by_good: bool) -> list[ScoredWindow]:
        # Both keep the same windows, so what was scored by the good model are the newest of all.
        return self._by_good.newest(len(self._by_good)) if by_good else self._windows.newest(len(self._by_good))

    def _taken(self, windows: Sequence[ScoredWindow], column: int) -> int:
        positives = negatives = 0
        for count, window in enumerate(reversed(windows), 1):
            labels = window.labels[window.counts[:, column], column]
            positives += int(labels.sum())
            negatives += len(labels) - int(labels.sum())
            if min(positives, negatives) >= self._gate.fewest_positives:
                return count
        return len(windows)


def judgeable(found: Mapping[str, Any], gate: StreamGateConfig) -> bool:
    """Whether figures of a task are of enough labels of both classes."""
    negatives = found["rows"] - found["positives"]
    return found["auc"] is not None and min(found["positives"], negatives) >= gate.fewest_positives
