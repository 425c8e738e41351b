"""Exact sums: values as whole multiples of 2^-16, whose sum doesn't depend on the order of adding."""

import numpy as np

_SCALE = 65_536.0
_LARGEST = 2.0**31


def to_fixed(values: np.ndarray) -> np.ndarray:
    """Values as int64 multiples of 2^-16, rounded; those beyond 2^31 count as 2^31."""
    return np.rint(np.clip(values.astype(np.float64), -_LARGEST, _LARGEST) * _SCALE).astype(np.int64)


def from_fixed(sums: np.ndarray) -> np.ndarray:
    """The inverse of `to_fixed` for sums, float64."""
    return sums / _SCALE
