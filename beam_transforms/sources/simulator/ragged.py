"""Small helpers for arrays of arrays of different length, stored flat."""

from collections.abc import Callable

import numpy as np


def positions_within(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... for each of `lengths` (R,), one after the other: (sum of lengths,)."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def fill(windows: np.ndarray, draw: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Calls `draw` until each room's pieces cover its windows.

    Args:
        windows: (R,) windows to cover.
        draw: gives lengths (R,) >= 1 of each room's next piece, and further columns (R,) that describe the piece.

    Returns:
        Lengths (R, M), the last one cut so that they add up to `windows` and 0 after it, and the columns as (R, M).
    """
    left = windows.copy()
    lengths: list[np.ndarray] = []
    columns: list[tuple[np.ndarray, ...]] = []
    while (left > 0).any():
        length, *rest = draw()
        length = np.minimum(length, left)
        left -= length
        lengths.append(length)
        columns.append(tuple(rest))
    return np.stack(lengths, axis=1), tuple(np.stack(column, axis=1) for column in zip(*columns, strict=True))
