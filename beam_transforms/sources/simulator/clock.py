"""How busy the platform is at each time of the day."""

import numpy as np

_DAY_MS = 86_400_000
_HOURS = np.arange(24.0)
_LUNCH, _EVENING = 12.5, 20.5


def _bump(hours: np.ndarray, centre: float, width: float) -> np.ndarray:
    distance = np.abs(hours - centre)
    return np.exp(-0.5 * (np.minimum(distance, 24 - distance) / width) ** 2)


def _raw(hours: np.ndarray) -> np.ndarray:
    return 0.2 + 0.45 * _bump(hours, _LUNCH, 2.0) + _bump(hours, _EVENING, 3.0)


_MEAN = float(_raw(_HOURS).mean())


def activity(timestamp_ms: np.ndarray) -> np.ndarray:
    """Activity relative to the day's mean (so its mean over a day is 1) at UTC `timestamp_ms`, of any shape.

    Lowest at night, a small peak at noon and a high one in the evening.
    """
    return _raw((np.asarray(timestamp_ms) % _DAY_MS) / 3_600_000) / _MEAN
