"""Remembers which rows of a stream were there before."""

import numpy as np


class SeenRows:
    """A set of 64-bit hashes that takes 8 bytes a row.

    Two of n different rows have one hash with a probability of about n^2 / 2^65: below 10^-5 for 15 million.
    """

    def __init__(self) -> None:
        # Sorted runs, each at least twice as long as the next: few of them, and a hash is merged only a few times.
        self._runs: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Adds hashes of shape (rows,); says which of them were added before, here or further up, bool (rows,)."""
        fresh, first = np.unique(hashes, return_index=True)
        seen = np.ones(len(hashes), dtype=bool)
        seen[first] = False
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, fresh), len(run) - 1)
            seen[first] |= run[places] == fresh
        fresh = np.sort(hashes[~seen])
        while self._runs and len(self._runs[-1]) < 2 * len(fresh):
            fresh = np.sort(np.concatenate([self._runs.pop(), fresh]))
        if len(fresh):
            self._runs.append(fresh)
        return seen
