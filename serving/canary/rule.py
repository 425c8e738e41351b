"""The rule that promotes a canary, rolls it back, or lets it go on."""

from serving.canary.always_valid import Interval
from serving.canary.comparison import CanaryComparison
from serving.canary.config import CanaryConfig
from serving.canary.decision import Decision
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import CANARY


def decide(config: CanaryConfig, sides: dict[str, SideStatistics], elapsed_s: float) -> Decision:
    """What is to become of a canary.

    With enough impressions on both sides, it is

    - rolled back if its click-through rate is certainly lower than the stable version's, or its calibration certainly
      out of bounds where the stable version's isn't (if both are, labels are late or the world has changed, and the
      new version isn't to blame);
    - promoted if a loss beyond `max_ctr_loss` is out of the question, and its calibration certainly within bounds.

    "Certainly" goes by intervals that hold at all times at once (`always_valid_interval`), so it may be asked as often
    as one likes. A canary that isn't decided by the deadline is rolled back.

    Args:
        config: The bounds.
        sides: "stable" and "canary" -> what happened there.
        elapsed_s: Seconds since the start.
    """
    few = [
        f"{name} has {side.impressions:,} of {config.min_impressions:,} impressions that are needed"
        for name, side in sides.items()
        if side.impressions < config.min_impressions
    ]
    if few:
        return _open(config, few, elapsed_s)
    comparison = CanaryComparison.of(config, sides)
    ctr, calibration = comparison.ctr_change, comparison.calibration
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
    if no_loss and _within(config, calibration[CANARY]):
        return Decision("promote", tuple(found))
    if not no_loss:
        found.append(f"a loss of more than {config.max_ctr_loss:.1%} isn't ruled out yet")
    if not _within(config, calibration[CANARY]):
        found.append(f"calibration isn't certainly within 1 +- {config.max_calibration_error:g} yet")
    return _open(config, found, elapsed_s)


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
