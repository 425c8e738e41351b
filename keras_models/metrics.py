"""AUC, GAUC and UAUC, exact, and their paired bootstrap over users. Numpy only.

AUC is the Mann-Whitney statistic: the probability that a positive row scores above a negative one, ties counting one
half. GAUC is the mean of the users' AUC weighted by their rows, UAUC the plain mean, both over the users who have rows
of both classes; the others are left out and counted. Pair counts are kept as integers, so the figures carry no
rounding but that of the last division.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclasses.dataclass(frozen=True)
class GroupedAUCResult:
    """AUC over all rows, and per user. `auc`, `gauc` and `uauc` are NaN where they aren't defined.

    Attributes:
        auc: Over all rows; NaN unless both classes occur.
        gauc: sum_u n_u AUC_u / sum_u n_u over users with both classes, n_u the user's rows; NaN if there is none.
        uauc: Mean of AUC_u over the same users.
        users: Number of users.
        users_left_out: Number of users with rows of one class only.
    """

    auc: float
    gauc: float
    uauc: float
    users: int
    users_left_out: int


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure and its 95 % bootstrap interval; all NaN where the figure isn't defined."""

    value: float
    low: float
    high: float


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, ties counting one half; NaN unless both classes occur.

    Args:
        labels: (rows,) of 0 and 1.
        scores: (rows,), higher means more likely positive.

    Raises:
        ValueError: On shapes that differ, labels other than 0 and 1, or scores that are NaN.
    """
    is_positive, columns = _checked(labels, [scores])
    return float(_area(np.zeros(is_positive.size, np.int64), 1, is_positive, _dense_ranks(columns[0]))[0])


def grouped_auc(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> GroupedAUCResult:
    """AUC, GAUC and UAUC of one column of scores.

    Args:
        users: (rows,) user ids, integers or strings.
        labels: (rows,) of 0 and 1.
        scores: (rows,), higher means more likely positive.

    Raises:
        ValueError: On shapes that differ, labels other than 0 and 1, or scores that are NaN.
    """
    is_positive, columns = _checked(labels, [scores])
    user_index, user_count = _factorise(users, is_positive.size)
    ranks = _dense_ranks(columns[0])
    user_auc = _area(user_index, user_count, is_positive, ranks)
    overall = _area(np.zeros_like(user_index), 1, is_positive, ranks)[0]
    rows = np.bincount(user_index, minlength=user_count)
    defined = ~np.isnan(user_auc)
    known = bool(defined.any())
    return GroupedAUCResult(
        auc=float(overall),
        gauc=float(np.average(user_auc[defined], weights=rows[defined])) if known else math.nan,
        uauc=float(user_auc[defined].mean()) if known else math.nan,
        users=user_count,
        users_left_out=int(user_count - defined.sum()),
    )


def bootstrap(
    users: ArrayLike, labels: ArrayLike, scores: ArrayLike, *, resamples: int = 500, seed: int = 0
) -> dict[str, Interval]:
    """AUC, GAUC and UAUC of one column with 95 % intervals from a bootstrap over users.

    Arguments and errors as in `paired_bootstrap`.

    Returns:
        {"auc": Interval, "gauc": Interval, "uauc": Interval}.
    """
    return _intervals(_resampled(users, labels, [scores], resamples, seed)[:, :, 0])


def paired_bootstrap(
    users: ArrayLike,
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, Interval]:
    """By how much `scores_a` is better than `scores_b`, with 95 % intervals from a paired bootstrap over users.

    Each resample draws as many users as there are, with replacement, all rows of a drawn user coming along, and takes
    both columns' figures on it. The interval spans the 2.5 % and 97.5 % quantiles of the differences. Resamples in
    which a figure isn't defined (one class drawn only) are left out of that figure's interval.

    Args:
        users: (rows,) user ids, integers or strings.
        labels: (rows,) of 0 and 1.
        scores_a: (rows,), the candidate.
        scores_b: (rows,), what it is compared with.
        resamples: Number of resamples.
        seed: Of the draws.

    Returns:
        {"auc": Interval, "gauc": Interval, "uauc": Interval} of the differences a - b.

    Raises:
        ValueError: On shapes that differ, labels other than 0 and 1, scores that are NaN, or `resamples` below 1.
    """
    figures = _resampled(users, labels, [scores_a, scores_b], resamples, seed)
    return _intervals(figures[:, :, 0] - figures[:, :, 1])


def _resampled(
    users: ArrayLike, labels: ArrayLike, scores: Sequence[ArrayLike], resamples: int, seed: int
) -> NDArray[np.float64]:
    """(1 + resamples, 3, columns): AUC, GAUC and UAUC of each column, first on the rows as they are."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    is_positive, columns = _checked(labels, scores)
    user_index, user_count = _factorise(users, is_positive.size)
    # A user's AUC doesn't depend on how often the user is drawn, so GAUC and UAUC need it once a column only.
    ranks = [_dense_ranks(column) for column in columns]
    user_auc = np.stack([_area(user_index, user_count, is_positive, rank) for rank in ranks], axis=-1)
    defined = ~np.isnan(user_auc[:, 0])
    user_auc = np.where(defined[:, None], user_auc, 0.0)
    rows = np.bincount(user_index, minlength=user_count) * defined
    pairs = [_SortedPairs(user_index, is_positive, rank) for rank in ranks]

    generator = np.random.default_rng(seed)
    figures = np.empty((1 + resamples, 3, len(columns)))
    for i in range(1 + resamples):
        if i == 0:
            times = np.ones(user_count)
        else:
            drawn = generator.integers(user_count, size=user_count)
            times = np.bincount(drawn, minlength=user_count).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that stands for "not defined"
            figures[i, 0] = [pair.area(times) for pair in pairs]
            figures[i, 1] = (times * rows) @ user_auc / np.float64((times * rows).sum())
            figures[i, 2] = (times * defined) @ user_auc / np.float64((times * defined).sum())
    return figures


class _SortedPairs:
    """The pairs of one column of scores, sorted once so that its AUC under any user weights costs O(rows)."""

    def __init__(self, user_index: NDArray, is_positive: NDArray, ranks: NDArray) -> None:
        negative = np.flatnonzero(~is_positive)
        negative = negative[np.argsort(ranks[negative])]
        positive = np.flatnonzero(is_positive)
        positive = positive[np.argsort(ranks[positive])]
        self._negative_user, self._positive_user = user_index[negative], user_index[positive]
        self._below = np.searchsorted(ranks[negative], ranks[positive], side="left")
        self._not_above = np.searchsorted(ranks[negative], ranks[positive], side="right")

    def area(self, times: NDArray[np.float64]) -> np.float64:
        """AUC with each user's rows counted `times[user]` times."""
        negatives = np.concatenate([[0.0], np.cumsum(times[self._negative_user])])
        positives = times[self._positive_user]
        wins = positives @ (negatives[self._below] + negatives[self._not_above]) / 2
        return wins / np.float64(positives.sum() * negatives[-1])


def _intervals(figures: NDArray[np.float64]) -> dict[str, Interval]:
    """From (1 + resamples, 3), the first row the value, to one interval a figure."""
    intervals = {}
    for name, column in zip(("auc", "gauc", "uauc"), figures.T, strict=True):
        value, drawn = column[0], column[1:][~np.isnan(column[1:])]
        low, high = np.quantile(drawn, [0.025, 0.975]) if drawn.size and not np.isnan(value) else (math.nan, math.nan)
        intervals[name] = Interval(float(value), float(low), float(high))
    return intervals


def _area(user_index: NDArray, user_count: int, is_positive: NDArray, ranks: NDArray) -> NDArray[np.float64]:
    """(users,) AUC of each user, NaN where a user lacks one class."""
    # One sort of one integer a row, the label in its last bit, orders by user, then score, and carries the label along.
    rank_count = ranks.max(initial=0) + 1
    keys = np.sort((user_index * rank_count + ranks) * 2 + is_positive)
    positive = keys & 1
    user = (keys >> 1) // rank_count
    starts = np.flatnonzero(np.diff(keys >> 1, prepend=-1))  # of runs of equal user and score
    run_user = user[starts]
    run_positives = np.add.reduceat(positive, starts) if starts.size else starts
    run_negatives = np.diff(starts, append=keys.size) - run_positives
    positives = np.bincount(user, weights=positive, minlength=user_count).astype(np.int64)
    negatives = np.bincount(user, minlength=user_count) - positives
    negatives_before_user = np.cumsum(negatives) - negatives
    negatives_below = np.cumsum(run_negatives) - run_negatives - negatives_before_user[run_user]
    doubled_wins = np.zeros(user_count, np.int64)
    np.add.at(doubled_wins, run_user, run_positives * (2 * negatives_below + run_negatives))
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that stands for "not defined"
        return doubled_wins / (2 * positives * negatives)


def _dense_ranks(scores: NDArray) -> NDArray[np.int64]:
    """(rows,) 0 for the lowest score, 1 for the next distinct one, and so on."""
    order = np.argsort(scores)
    in_order = scores[order]
    ranks = np.empty(scores.size, np.int64)
    ranks[order] = np.concatenate([[0], np.cumsum(in_order[1:] != in_order[:-1])]) if scores.size else []
    return ranks


def _factorise(users: ArrayLike, rows: int) -> tuple[NDArray[np.int64], int]:
    ids = np.asarray(users)
    if ids.shape != (rows,):
        raise ValueError(f"users and labels must be vectors of one length, got shapes {ids.shape} and {(rows,)}")
    distinct, index = np.unique(ids, return_inverse=True)
    return index.astype(np.int64), distinct.size


def _checked(labels: ArrayLike, scores: Sequence[ArrayLike]) -> tuple[NDArray[np.bool_], list[NDArray]]:
    """Labels as booleans and the columns of scores as arrays."""
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(f"labels must be a vector, got shape {values.shape}")
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        raise ValueError(f"labels must be 0 or 1, got {values[wrong][0]} in row {int(wrong.argmax())}")
    columns = [np.asarray(column) for column in scores]
    for column in columns:
        if column.shape != values.shape:
            raise ValueError(f"scores and labels must have one shape, got {column.shape} and {values.shape}")
        missing = np.isnan(column)
        if missing.any():
            raise ValueError(f"scores must be numbers, got NaN in row {int(missing.argmax())}")
    return values.astype(bool), columns
