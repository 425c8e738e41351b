"""Intervals that may be looked at again and again."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float


def always_valid_interval(estimate: float, variance: float, scale: float, alpha: float) -> Interval:
    """The interval that a mixture sequential probability ratio test leaves over.

    With V the variance of the estimate so far, and the effect mixed over N(0, scale^2) (Robbins 1970; Johari, Koomen,
    Pekelis, Walsh 2017, "Peeking at A/B Tests"), its half width is

        sqrt(V (V + scale^2) / scale^2 * (2 log(1 / alpha) + log((V + scale^2) / V)))

    The truth lies in all intervals of a growing sample at once with probability 1 - alpha, for estimates whose sums
    are near to normal: who looks after every window and stops when he likes what he sees isn't misled, as he is with an
    interval of fixed size. The price is a width of about 1.5 times that.

    Args:
        estimate: The estimate.
        variance: Its variance; positive.
        scale: Standard deviation of the effects that are looked for: the size that matters.
        alpha: Probability of a miss, ever.

    Raises:
        ValueError: An argument is out of range.
    """
    if not (variance > 0 and scale > 0 and 0 < alpha < 1):
        raise ValueError(
            f"an interval needs a positive variance and scale, and alpha between 0 and 1; got {variance!r}, {scale!r} "
            f"and {alpha!r}"
        )
    mixed = variance + scale**2
    half = math.sqrt(variance * mixed / scale**2 * (2 * math.log(1 / alpha) + math.log(mixed / variance)))
    return Interval(estimate, estimate - half, estimate + half)


def ratio_variance(numerators: np.ndarray, denominators: np.ndarray) -> float:
    """Variance of sum(numerators) / sum(denominators), both (groups,), where groups are independent (delta method).

    0.0 where fewer than two groups have anything.
    """
    used = (numerators != 0) | (denominators != 0)
    groups, total = int(np.count_nonzero(used)), float(denominators.sum())
    if groups < 2 or total <= 0:
        return 0.0
    ratio = numerators.sum() / total
    return float(groups / (groups - 1) * np.sum((numerators - ratio * denominators) ** 2) / total**2)
