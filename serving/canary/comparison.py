"""CanaryComparison: how a canary stands against the stable version."""

import dataclasses
import math
from typing import Any

import numpy as np

from serving.canary.always_valid import Interval, always_valid_interval, ratio_variance
from serving.canary.config import CanaryConfig
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import CANARY, SIDES

LEAST_CLICKS = 50
"""Fewer clicks of a side are too few for intervals that take sums as normal."""

MAX_FAILURES = 0.01
"""Part of the canary's impressions and requests that it may leave to the stable version, or without an answer, beyond
the part that the stable version leaves without one."""


@dataclasses.dataclass(frozen=True)
class CanaryComparison:
    """How a canary stands against the stable version. Intervals are always valid, of level 1 - alpha / 2 each.

    Attributes:
        ctr_change: Change of the click-through rate, relative to the stable version's: 0.02 is 2 % more. None while
            the stable side has too few clicks. Users of the canary count whoever answered them.
        calibration: Side -> predicted / observed clicks, of what each version answered itself; None while the side has
            too few clicks.
        failures: Part of what users of the canary asked for that the canary didn't answer, less the part of what users
            of the stable version asked for that nobody answered: rooms that have ended and a store that is away are no
            version's failures, and are on both sides. None while a side has asked for nothing.
    """

    ctr_change: Interval | None
    calibration: dict[str, Interval | None]
    failures: Interval | None

    @classmethod
    def of(cls, config: CanaryConfig, sides: dict[str, SideStatistics]) -> "CanaryComparison":
        """Compares `SIDES`."""
        stable, canary, fell_back, failed, stable_failed = (sides[name].sums for name in SIDES)
        calibration = {name: _calibration(config, sides[name]) for name in ("stable", CANARY)}
        left, of_stable = (fell_back + failed)[:, 0], stable_failed[:, 0]
        failures = _failures(config, of_stable, stable[:, 0] + of_stable, left, canary[:, 0] + left)
        return cls(_ctr_change(config, stable, canary + fell_back), calibration, failures)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _ctr_change(config: CanaryConfig, stable: np.ndarray, canary: np.ndarray) -> Interval | None:
    """From sums of each side, as `SideStatistics.sums`."""
    (stable_rows, _, stable_clicks), (canary_rows, _, canary_clicks) = stable.sum(axis=0), canary.sum(axis=0)
    if stable_clicks < LEAST_CLICKS or not canary_rows:
        return None
    pooled = float((stable_clicks + canary_clicks) / (stable_rows + canary_rows))
    rates, variances = [], []
    for sums, rows, clicks in ((stable, stable_rows, stable_clicks), (canary, canary_rows, canary_clicks)):
        rates.append(float(clicks / rows))
        # Not less than if impressions were independent: few groups, or none with a click, would tell too little.
        variances.append(max(ratio_variance(sums[:, 2], sums[:, 0]), pooled * (1 - pooled) / float(rows)))
    ratio = rates[1] / rates[0]
    variance = (variances[1] + ratio**2 * variances[0]) / rates[0] ** 2
    if variance <= 0:  # every impression was clicked
        return None
    return always_valid_interval(ratio - 1, variance, config.max_ctr_loss, config.alpha / 2)


def _failures(
    config: CanaryConfig, stable_failed: np.ndarray, stable_asked: np.ndarray, failed: np.ndarray, asked: np.ndarray
) -> Interval | None:
    """From sums of each group of users."""
    if not stable_asked.any() or not asked.any():
        return None
    shares, variances = [], []
    for left, of in ((stable_failed, stable_asked), (failed, asked)):
        total = float(of.sum())
        share = float(left.sum()) / total
        least = max(share * (1 - share), MAX_FAILURES * (1 - MAX_FAILURES)) / total
        shares.append(share)
        variances.append(max(ratio_variance(left, of), least))
    return always_valid_interval(shares[1] - shares[0], sum(variances), MAX_FAILURES, config.alpha / 2)


def _calibration(config: CanaryConfig, side: SideStatistics) -> Interval | None:
    if side.clicks < LEAST_CLICKS:
        return None
    ratio = side.predicted / side.clicks
    rate = side.clicks / side.impressions
    least = max(ratio, config.max_calibration_error) ** 2 * (1 - rate) / side.clicks
    variance = max(ratio_variance(side.sums[:, 1], side.sums[:, 2]), least)
    if not variance > 0 or not math.isfinite(variance):
        return None
    return always_valid_interval(ratio, variance, config.max_calibration_error, config.alpha / 2)
