"""CanaryComparison: how a canary stands against the stable version."""

import dataclasses
import math
from typing import Any

from serving.canary.always_valid import Interval, always_valid_interval, ratio_variance
from serving.canary.config import CanaryConfig
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import CANARY

LEAST_CLICKS = 50
"""Fewer clicks of a side are too few for intervals that take sums as normal."""


@dataclasses.dataclass(frozen=True)
class CanaryComparison:
    """How a canary stands against the stable version. Intervals are always valid, of level 1 - alpha / 2 each.

    Attributes:
        ctr_change: Change of the click-through rate, relative to the stable version's: 0.02 is 2 % more. None while
            the stable side has too few clicks.
        calibration: Side -> predicted / observed clicks; None while the side has too few clicks.
    """

    ctr_change: Interval | None
    calibration: dict[str, Interval | None]

    @classmethod
    def of(cls, config: CanaryConfig, sides: dict[str, SideStatistics]) -> "CanaryComparison":
        """Compares the sides "stable" and "canary"."""
        calibration = {name: _calibration(config, side) for name, side in sides.items()}
        return cls(_ctr_change(config, sides["stable"], sides[CANARY]), calibration)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _ctr_change(config: CanaryConfig, stable: SideStatistics, canary: SideStatistics) -> Interval | None:
    if stable.clicks < LEAST_CLICKS or not canary.impressions:
        return None
    pooled = (stable.clicks + canary.clicks) / (stable.impressions + canary.impressions)
    rates, variances = [], []
    for side in (stable, canary):
        rates.append(side.clicks / side.impressions)
        # Not less than if impressions were independent: few groups, or none with a click, would tell too little.
        least = pooled * (1 - pooled) / side.impressions
        variances.append(max(ratio_variance(side.sums[:, 2], side.sums[:, 0]), least))
    ratio = rates[1] / rates[0]
    variance = (variances[1] + ratio**2 * variances[0]) / rates[0] ** 2
    if variance <= 0:  # every impression was clicked
        return None
    return always_valid_interval(ratio - 1, variance, config.max_ctr_loss, config.alpha / 2)


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
