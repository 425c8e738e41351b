"""Which of a window's rows stand in which batch, where all batches are of one size."""

from typing import NamedTuple

import numpy as np


class BatchOrder(NamedTuple):
    """Places of all batches, one behind the other.

    Attributes:
        rows: int64 (places,), the row that stands there.
        counts: float32 (places,), 1, or 0 where a row stands only to fill a batch up.
    """

    rows: np.ndarray
    counts: np.ndarray


def batch_order(rows: int, batch_size: int, steps: int, passes: int | None, key: tuple[int, int]) -> BatchOrder:
    """One permutation of the rows behind the other, as long as the batches are.

    Args:
        rows: Of the window, at least 1.
        batch_size: Rows of a batch.
        steps: Number of batches.
        passes: How often a row counts; it fills up beyond that. None: each place counts.
        key: Of the order: the same key gives the same.
    """
    places = steps * batch_size
    generator = np.random.default_rng([abs(number) for number in key])
    order = [np.zeros(0, np.int64), *(generator.permutation(rows) for _ in range(-(-places // rows)))]
    counts = np.ones(places, np.float32)
    if passes is not None:
        counts[rows * passes :] = 0
    return BatchOrder(np.concatenate(order)[:places], counts)


def filled(rows: np.ndarray, size: int) -> np.ndarray:
    """`rows` (B, ...) and, behind them, zeros: so many as make `size` rows."""
    if len(rows) == size:
        return rows
    found = np.zeros((size, *rows.shape[1:]), rows.dtype)
    found[: len(rows)] = rows
    return found
