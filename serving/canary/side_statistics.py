"""SideStatistics: what was predicted and what happened on one side of an experiment."""

from typing import Any

import numpy as np

from serving.canary.split import hash_fractions

BUCKETS = 512
"""Groups of users. Impressions of a user aren't independent of each other; groups of users are."""

_SALT = "buckets of users"
_BINS = 2000
_LEAST = 1e-7


class SideStatistics:
    """Sums over the impressions of one side, of a size that doesn't grow.

    Attributes:
        sums: (BUCKETS, 3): impressions, predicted clicks and observed clicks of each group of users.
    """

    def __init__(self) -> None:
        self.sums = np.zeros((BUCKETS, 3))
        self._log_loss = 0.0
        self._bins = np.zeros((2, _BINS), np.int64)  # impressions without and with a click, by score

    def add(self, user_ids: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Adds N impressions.

        Args:
            user_ids: (N,) int64.
            scores: (N,) predicted probabilities of a click, in [0, 1].
            labels: (N,) 1 where the user clicked, else 0.

        Raises:
            ValueError: The arrays differ in length, or hold something else.
        """
        user_ids, scores, labels = np.asarray(user_ids), np.asarray(scores, float), np.asarray(labels, float)
        if not len(user_ids) == len(scores) == len(labels):
            raise ValueError(f"{len(user_ids)} users, {len(scores)} scores and {len(labels)} labels; expected as many")
        if not (((scores >= 0) & (scores <= 1)).all() and np.isin(labels, (0, 1)).all()):
            raise ValueError("scores must be probabilities from 0 to 1, and labels 0 or 1")
        bucket = (hash_fractions(user_ids, _SALT) * BUCKETS).astype(np.int64)
        for column, values in enumerate((np.ones(len(scores)), scores, labels)):
            self.sums[:, column] += np.bincount(bucket, values, BUCKETS)
        clipped = np.clip(scores, _LEAST, 1 - _LEAST)
        self._log_loss -= float(np.sum(np.where(labels == 1, np.log(clipped), np.log1p(-clipped))))
        place = (_BINS * (0.5 + np.log(clipped / (1 - clipped)) / (2 * -np.log(_LEAST)))).astype(np.int64)
        np.add.at(self._bins, (labels.astype(np.int64), np.clip(place, 0, _BINS - 1)), 1)

    @property
    def impressions(self) -> int:
        return int(self.sums[:, 0].sum())

    @property
    def predicted(self) -> float:
        """Clicks that the scores promise."""
        return float(self.sums[:, 1].sum())

    @property
    def clicks(self) -> int:
        return int(self.sums[:, 2].sum())

    @property
    def log_loss(self) -> float | None:
        """Mean over the impressions; None without any."""
        return self._log_loss / self.impressions if self.impressions else None

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve, of scores rounded to one of 2000 steps of log-odds; None without both labels."""
        without, clicked = self._bins
        if not without.sum() or not clicked.sum():
            return None
        below = np.cumsum(without) - without
        return float((clicked * (below + without / 2)).sum() / (without.sum() * clicked.sum()))

    def to_json(self) -> dict[str, Any]:
        """All of it, for `json.dumps`; bins as [label, bin, impressions]."""
        bins = [[int(label), int(place), int(self._bins[label, place])] for label, place in np.argwhere(self._bins)]
        return {"sums": self.sums.tolist(), "log_loss": self._log_loss, "bins": bins}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "SideStatistics":
        """The inverse of `to_json`; raises ValueError, KeyError or TypeError on anything else."""
        statistics = cls()
        statistics.sums = np.array(content["sums"], float).reshape(BUCKETS, 3)
        statistics._log_loss = float(content["log_loss"])
        for label, place, impressions in content["bins"]:
            statistics._bins[label, place] = impressions
        return statistics
