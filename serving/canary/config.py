"""CanaryConfig: what a canary is judged by."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CanaryConfig:
    """What a canary is judged by.

    Attributes:
        share: Part of the users that get the new version.
        salt: Name of the experiment; which users these are follows from it.
        min_impressions: Impressions that each side has to have before anything is decided.
        max_calibration_error: How far the ratio of predicted to observed clicks may be from 1.
        max_ctr_loss: The largest loss of click-through rate, relative to the stable version's, that a promotion may
            leave possible. A loss that is certain is never promoted, however small.
        alpha: Bound of the probability that a canary is rolled back though it is as good as the stable version,
            calibrated and without failures beyond the bound, and of the one that it is promoted though its loss, its
            calibration error or its failures are out of bounds.
        deadline_s: Seconds after the start at which a canary that isn't decided is rolled back.

    Raises:
        ValueError: A number is out of range, or the salt is empty.
    """

    salt: str
    share: float = 0.05
    min_impressions: int = 10_000
    max_calibration_error: float = 0.1
    max_ctr_loss: float = 0.02
    alpha: float = 0.05
    deadline_s: float = 86_400.0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} = {getattr(self, name)!r}"
            for name in ("share", "max_calibration_error", "max_ctr_loss", "alpha")
            if not 0 < getattr(self, name) < 1
        ]
        wrong += [
            f"{name} = {getattr(self, name)!r}"
            for name in ("min_impressions", "deadline_s")
            if not getattr(self, name) > 0
        ]
        if wrong or not self.salt:
            raise ValueError(
                "a canary needs share, bounds and alpha between 0 and 1, positive min_impressions and deadline_s, a "
                f"salt; got {', '.join(wrong) or 'an empty salt'}"
            )
