"""Whether and when a model recovers from a change: GAUC by window, with intervals over users. Numpy only."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

LEVEL_WINDOWS = 10
"""Windows before the change whose mean is the level that a model recovers to."""

FALL_WINDOWS = 3
"""Windows after the change whose mean, of the model that doesn't learn, is what a model recovers from."""

JUDGED_WINDOWS = 3
"""Windows whose mean is judged: one alone says little."""

WITHIN_WINDOWS = 3
"""Windows after the change in which a model has to recover: those behind them are judged."""

RECOVERED = 0.8
"""Share of the way back that counts as recovered."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval, bootstrap over users; NaN where it isn't defined."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        return {name: None if np.isnan(value) else round(value, 5) for name, value in dataclasses.asdict(self).items()}


class Recovery:
    """GAUC of some models in the windows around a change, and how far each has come back.

    Windows are numbered from the change: 0 is the first one after it, -1 the last one before it. GAUC in a window is
    the mean of the users' AUC weighted by their rows, over users who have both classes in that window.

    *Recovered within 3 windows* means: the mean GAUC of the windows 3, 4 and 5, the three behind the first three, has
    come at least 80 % of the way back from the fall to the level, where the level is the model's own mean GAUC in the
    last 10 windows before the change, and the fall is the mean GAUC of the model that doesn't learn in the first three
    windows after it. So both ends are means, and a model that never fell as far isn't judged more mildly.

    Why not 100 %: what is remembered of users and rooms was told before the change and after it, and says less than
    before. `reversed_share` is a yardstick for that: the order of the model that doesn't learn, turned round in each
    window, as if it had been told of the change at once. Who learns may come further, as it learns that, too.

    Intervals are 95 %, from a bootstrap that draws users with all their rows in all windows.

    Args:
        users: (B,) user ids.
        windows: (B,) number of the window of each row.
        labels: (B,) of 0 and 1.
        scores: Model -> (B,) scores; a NaN leaves the row out for all of them.
        fixed: The model that doesn't learn.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Attributes:
        windows: The numbers of the windows, ascending: W of them.

    Raises:
        ValueError: If windows are missing: the level takes those from -10 on, the judgement those up to 5.
    """

    def __init__(
        self,
        users: np.ndarray,
        windows: np.ndarray,
        labels: np.ndarray,
        scores: Mapping[str, np.ndarray],
        fixed: str,
        resamples: int = 200,
        seed: int = 0,
    ) -> None:
        known = ~np.any([np.isnan(score) for score in scores.values()], axis=0)
        self.windows, window = np.unique(windows[known], return_inverse=True)
        needed = np.arange(-LEVEL_WINDOWS, WITHIN_WINDOWS + JUDGED_WINDOWS)
        missing = sorted(set(needed.tolist()) - set(self.windows.tolist()))
        if missing:
            raise ValueError(f"there is no scored row in the windows {missing}; windows are numbered from the change")
        distinct, user = np.unique(users[known], return_inverse=True)
        shape = (len(distinct), len(self.windows))
        generator = np.random.default_rng(seed)
        times = np.ones((1 + resamples, len(distinct)))
        for row in range(1, 1 + resamples):
            times[row] = np.bincount(generator.integers(len(distinct), size=len(distinct)), minlength=len(distinct))
        self._gauc = {
            model: _window_gauc(user * shape[1] + window, shape, labels[known], score[known], times)
            for model, score in scores.items()
        }
        self._fixed = fixed

    def gauc(self, model: str) -> list[Figure]:
        """GAUC of each window."""
        return [_figure(column) for column in self._gauc[model].T]

    def level(self, model: str) -> Figure:
        """Mean GAUC in the last windows before the change."""
        return _figure(self._mean(model, -LEVEL_WINDOWS, 0))

    @property
    def fall(self) -> Figure:
        """Mean GAUC, in the first windows after the change, of the model that doesn't learn."""
        return _figure(self._mean(self._fixed, 0, FALL_WINDOWS))

    def share(self, model: str, first: int = WITHIN_WINDOWS) -> Figure:
        """Share of the way back in the judged windows from `first` on: 0 is the fall, 1 the level."""
        return _figure(self._share(model, first))

    @property
    def reversed_share(self) -> Figure:
        """`share` of the order of the model that doesn't learn, turned round after the change."""
        level, fall = self._mean(self._fixed, -LEVEL_WINDOWS, 0), self._mean(self._fixed, 0, FALL_WINDOWS)
        judged = self._mean(self._fixed, WITHIN_WINDOWS, WITHIN_WINDOWS + JUDGED_WINDOWS)
        return _figure((1 - judged - fall) / (level - fall))

    def recovered(self, model: str) -> bool:
        """Whether the model has recovered within 3 windows."""
        return bool(self.share(model).value >= RECOVERED)

    def windows_to_recover(self, model: str, share: float = RECOVERED) -> int | None:
        """The least n so that the mean of the windows n, n + 1 and n + 2 is that far back; None if there is none."""
        for first in range(int(self.windows[-1]) - JUDGED_WINDOWS + 2):
            if self._share(model, first)[0] >= share:
                return first
        return None

    def best_share(self, model: str, until: int) -> float:
        """The greatest share of the way back in any judged windows that end by window `until`, exclusive."""
        return float(max(self._share(model, first)[0] for first in range(until - JUDGED_WINDOWS + 1)))

    def to_json(self, model: str) -> dict[str, Any]:
        """The figures of one model."""
        return {
            "level": self.level(model).to_json(),
            "share_recovered": self.share(model).to_json(),
            "recovered": self.recovered(model),
            "windows_to_recover": self.windows_to_recover(model),
            "windows_to_90_percent": self.windows_to_recover(model, 0.9),
            "gauc": [figure.to_json() for figure in self.gauc(model)],
        }

    def _mean(self, model: str, begin: int, end: int) -> np.ndarray:
        """(1 + resamples,) mean GAUC of the windows [begin, end)."""
        return self._gauc[model][:, (self.windows >= begin) & (self.windows < end)].mean(axis=1)

    def _share(self, model: str, first: int) -> np.ndarray:
        level, fall = self._mean(model, -LEVEL_WINDOWS, 0), self._mean(self._fixed, 0, FALL_WINDOWS)
        return (self._mean(model, first, first + JUDGED_WINDOWS) - fall) / (level - fall)


def _window_gauc(
    group: np.ndarray, shape: tuple[int, int], labels: np.ndarray, scores: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """(1 + resamples, W): GAUC of each window, each user counted `times` (1 + resamples, users) times."""
    groups = shape[0] * shape[1]
    order = np.lexsort([scores, group])
    ordered, positive = group[order], labels[order] > 0.5
    # Equal scores share the mean of their places.
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]) | (np.diff(scores[order]) != 0)
    run = np.cumsum(fresh) - 1
    places = np.bincount(run, weights=np.arange(len(order))) / np.bincount(run)
    rows = np.bincount(ordered, minlength=groups)
    positives = np.bincount(ordered, weights=positive, minlength=groups)
    before = np.cumsum(rows) - rows
    rank = places[run] - before[ordered]
    wins = np.bincount(ordered, weights=rank * positive, minlength=groups) - positives * (positives - 1) / 2
    pairs = positives * (rows - positives)
    counted = np.where(pairs > 0, rows, 0).reshape(shape)
    area = (wins / np.maximum(pairs, 1)).reshape(shape)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that stands for "not defined"
        return (times @ (counted * area)) / (times @ counted)


def _figure(values: np.ndarray) -> Figure:
    """From (1 + resamples,), the first one the value."""
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return Figure(float(values[0]), float(low), float(high))
