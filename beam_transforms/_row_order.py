"""Sorting of whole columns: the vectorised sort of 64-bit values, with each row's number in the low bits."""

from collections.abc import Callable, Sequence

import numpy as np


def stable_order(codes: np.ndarray) -> np.ndarray:
    """What `np.argsort(codes, kind="stable")` gives for int64 codes, several times as fast where they span little."""
    rows = len(codes)
    if rows < 2 or (codes[1:] >= codes[:-1]).all():
        return np.arange(rows)
    low = int(codes.min())
    bits = rows.bit_length()
    if (int(codes.max()) - low + 1) << bits >= 2**63:
        return np.argsort(codes, kind="stable")
    packed = codes - low
    packed <<= bits
    packed |= np.arange(rows)
    packed.sort()
    packed &= (1 << bits) - 1
    return packed


def small_order(numbers: np.ndarray, count: int) -> np.ndarray:
    """The same for numbers below `count`, by radix sort where there are few."""
    for dtype in (np.uint8, np.uint16):
        if count <= np.iinfo(dtype).max + 1:
            return np.argsort(numbers.astype(dtype), kind="stable")
    return stable_order(numbers.astype(np.int64))


def dense_codes(values: np.ndarray) -> tuple[np.ndarray, int]:
    """`np.unique(values, return_inverse=True)[1]` of integers, and how many distinct ones there are."""
    if not len(values):
        return np.zeros(0, dtype=np.int64), 0
    values = values.astype(np.int64, copy=False)
    low = int(values.min())
    span = int(values.max()) - low + 1
    if span <= 4 * len(values):
        offsets = values - low
        present = np.zeros(span, dtype=bool)
        present[offsets] = True
        ranks = np.cumsum(present)
        return ranks[offsets] - 1, int(ranks[-1])
    order = stable_order(values)
    ordered = values[order]
    fresh = np.zeros(len(values), dtype=np.int64)
    fresh[1:] = ordered[1:] != ordered[:-1]
    codes = np.empty(len(values), dtype=np.int64)
    codes[order] = np.cumsum(fresh)
    return codes, int(codes[order[-1]]) + 1


def first_of_equal(arrays: Sequence[np.ndarray], exact: Callable[[Sequence[np.ndarray]], np.ndarray]) -> np.ndarray:
    """Row numbers of the first of each set of rows that are equal in all arrays, ascending.

    Rows whose hash no other row has are alone for sure; `exact` says which of the others are first.
    """
    rows = len(arrays[0])
    bits = np.uint64(rows.bit_length())
    packed = _quick_hash(arrays)
    packed &= ~np.uint64((1 << int(bits)) - 1)
    packed |= np.arange(rows, dtype=np.uint64)
    packed.sort()
    same = (packed[1:] ^ packed[:-1]) >> bits == 0
    if not same.any():
        return np.arange(rows)
    suspected = np.zeros(rows, dtype=bool)
    suspected[:-1] |= same
    suspected[1:] |= same
    packed &= np.uint64((1 << int(bits)) - 1)
    suspects = np.sort(packed[suspected].astype(np.int64))
    kept = np.ones(rows, dtype=bool)
    kept[suspects] = False
    kept[suspects[exact([values[suspects] for values in arrays])]] = True
    return np.flatnonzero(kept)


def _quick_hash(arrays: Sequence[np.ndarray]) -> np.ndarray:
    state = np.zeros(len(arrays[0]), dtype=np.uint64)
    shifted = np.empty_like(state)
    for values in (*arrays, None):
        state *= np.uint64(0x9E3779B97F4A7C15)
        np.right_shift(state, np.uint64(32), out=shifted)
        state ^= shifted
        if values is not None:
            state += values.view(np.uint64) if values.dtype == np.int64 else values.astype(np.uint64)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    return state
