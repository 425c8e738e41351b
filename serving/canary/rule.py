"""The rule that promotes a canary, rolls it back, or lets it go on."""

from serving.canary.always_valid import Interval
from serving.canary.comparison import MAX_FAILURES, CanaryComparison
from serving.canary.config import CanaryConfig
from serving.canary.decision import Decision
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import CANARY

LEAST_FAILURES = 50
"""Fewer may all be of one user's request."""


def decide(
    config: CanaryConfig, sides: dict[str, SideStatistics], elapsed_s: float, unread: str | None = None
) -> Decision:
    """What is to become of a canary.

    It is rolled back if the part of its requests that it didn't answer is certainly larger than that of the stable
    version's, by more than `MAX_FAILURES`. With enough impressions on both sides, it is

    - rolled back if its click-through rate is certainly lower than the stable version's, or its calibration certainly
      out of bounds where the stable version's isn't (if both are, labels are late or the world has changed, and the
      new version isn't to blame);
    - promoted if a loss beyond `max_ctr_loss` is out of the question, its calibration certainly within bounds, and
      more failures than the stable version's and `MAX_FAILURES` are out of the question, and all outcomes are known.

    "Certainly" goes by intervals that hold at all times at once (`always_valid_interval`), so it may be asked as often
    as one likes. A canary that isn't decided by the deadline is rolled back.

    Args:
        config: The bounds.
        sides: One of `SIDES` -> what happened there.
        elapsed_s: Seconds since the start.
        unread: Why outcomes could not be read; None if all were.
    """
    comparison = CanaryComparison.of(config, sides)
    ctr, calibration, failures = comparison.ctr_change, comparison.calibration, comparison.failures
    failed = sides["fell_back"].impressions + sides["failed"].impressions
    if failures is not None and failures.low > MAX_FAILURES and failed >= LEAST_FAILURES:
        more, least, allowed = (100 * part for part in (failures.estimate, failures.low, MAX_FAILURES))
        reason = (
            f"the part that the canary left of what it was asked for is {more:.1f} percentage points larger than the "
            f"stable version's, {least:.1f} at least, allowed {allowed:.1f}"
        )
        return Decision("roll_back", (reason,))
    impressions = {
        "stable": sides["stable"].impressions,
        CANARY: sides[CANARY].impressions + sides["fell_back"].impressions,
    }
    few = [
        f"{name} has {rows:,} of {config.min_impressions:,} impressions that are needed"
        for name, rows in impressions.items()
        if rows < config.min_impressions
    ]
    missing = [] if unread is None else [f"outcomes can't be read: {unread}"]
    if few:
        return _open(config, few + missing, elapsed_s)
    found = [
        f"CTR changes by {_percent(ctr)}",
        f"predicted / observed clicks of the canary: {_ratio(calibration[CANARY])}",
    ]
    against = []
    if ctr is not None and ctr.high < 0:
        against.append(f"CTR is certainly lower: it changes by {_percent(ctr)}")
    off, stable_off = (_off(config, calibration[name]) for name in (CANARY, "stable"))
    if off and off == stable_off:
        found.append(f"the stable version is off as well: {_ratio(calibration['stable'])}; are labels late?")
    elif off:
        against.append(
            f"calibration is certainly off: predicted / observed clicks {_ratio(calibration[CANARY])}, allowed 1 +- "
            f"{config.max_calibration_error:g}"
        )
    if against:
        return Decision("roll_back", tuple(against))
    no_loss = ctr is not None and ctr.low > -config.max_ctr_loss
    answers = failures is not None and failures.high <= MAX_FAILURES
    if no_loss and answers and _within(config, calibration[CANARY]) and not missing:
        return Decision("promote", tuple(found))
    if not no_loss:
        found.append(f"a loss of more than {config.max_ctr_loss:.1%} isn't ruled out yet")
    if not _within(config, calibration[CANARY]):
        found.append(f"calibration isn't certainly within 1 +- {config.max_calibration_error:g} yet")
    if not answers:
        found.append(f"failures of more than {MAX_FAILURES:.1%} beyond the stable version's aren't ruled out yet")
    return _open(config, found + missing, elapsed_s)


def _open(config: CanaryConfig, reasons: list[str], elapsed_s: float) -> Decision:
    if elapsed_s < config.deadline_s:
        return Decision("go_on", tuple(reasons))
    late = f"not decided within {config.deadline_s:g} s"
    return Decision("roll_back", (late, *reasons))


def _off(config: CanaryConfig, calibration: Interval | None) -> int:
    """1 if predictions are certainly too high, -1 if they are too low, else 0."""
    if calibration is None:
        return 0
    too_high = calibration.low > 1 + config.max_calibration_error
    return int(too_high) - int(calibration.high < 1 - config.max_calibration_error)


def _within(config: CanaryConfig, calibration: Interval | None) -> bool:
    return calibration is not None and (
        calibration.low >= 1 - config.max_calibration_error and calibration.high <= 1 + config.max_calibration_error
    )


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "(too few clicks)"
    return f"{interval.estimate:+.1%} ({interval.low:+.1%} to {interval.high:+.1%})"


def _ratio(interval: Interval | None) -> str:
    if interval is None:
        return "(too few clicks)"
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"
