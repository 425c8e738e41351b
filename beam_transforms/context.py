"""Features of the moment of a request."""

import numpy as np

from beam_transforms.schema import CONTEXT_COLUMNS

_DAY_MS = 86_400_000


def context_features(opened_ms: np.ndarray, now_ms: np.ndarray) -> np.ndarray:
    """`schema.CONTEXT_COLUMNS` for rooms that opened at `opened_ms`, as of `now_ms`: float32 of shape (B, 3)."""
    age_s = np.maximum(now_ms - np.minimum(opened_ms, now_ms), 0) / 1000.0
    angle = 2 * np.pi * (now_ms % _DAY_MS) / _DAY_MS
    columns = dict(zip(CONTEXT_COLUMNS, (age_s, np.sin(angle), np.cos(angle)), strict=True))
    return np.stack(list(columns.values()), axis=1).astype(np.float32)
