"""How large a simulation is, and the presets that the command line offers."""

import dataclasses

from beam_transforms.sources.simulator.behaviour import Behaviour

_DAY_S = 86_400


@dataclasses.dataclass(frozen=True)
class SimulatorConfig:
    """Size and seed of a simulation. Any combination works; memory grows with users, authors and rooms live at once.

    Attributes:
        users: Number of users on the platform; some may not come at all.
        authors: Number of authors; about a quarter of them are live at any time.
        duration_s: Simulated seconds.
        start_ms: First moment, in milliseconds since the epoch. The default is midnight UTC; evenings are busiest.
        impressions_per_user_day: Mean number of rooms shown to a user in 24 hours.
        seed: Same configuration and seed, same files, byte for byte.
        behaviour: Coefficients of the process.
        taste_change_s: Seconds after the start at which users' preferences flip, see docs/simulator.md; None for never.
    """

    users: int
    authors: int
    duration_s: int = _DAY_S
    start_ms: int = 1_748_822_400_000  # 2025-06-02 00:00 UTC
    impressions_per_user_day: float = 46.0
    seed: int = 0
    behaviour: Behaviour = dataclasses.field(default_factory=Behaviour)
    taste_change_s: int | None = None

    def __post_init__(self) -> None:
        for name in ("users", "authors", "duration_s", "impressions_per_user_day"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.start_ms < 0 or self.seed < 0:
            raise ValueError(f"start_ms and seed must not be negative, got {self.start_ms} and {self.seed}")
        if self.taste_change_s is not None and self.taste_change_s < 0:
            raise ValueError(f"taste_change_s must be None or not negative, got {self.taste_change_s}")

    @property
    def end_ms(self) -> int:
        """The log is cut here: nothing is written with a later timestamp."""
        return self.start_ms + 1000 * self.duration_s

    @property
    def taste_change_ms(self) -> int | None:
        """The moment at which users' preferences flip, in milliseconds since the epoch."""
        return None if self.taste_change_s is None else self.start_ms + 1000 * self.taste_change_s


PRESETS: dict[str, SimulatorConfig] = {
    # Three evening hours, about 10,000 events: for tests.
    "tiny": SimulatorConfig(users=240, authors=24, duration_s=10_800, start_ms=1_748_887_200_000),
    # One day: about 1.6 million events, 300,000 impressions.
    "demo": SimulatorConfig(users=6_500, authors=420),
    # Three days of four times as many users: about 23 million events.
    "large": SimulatorConfig(users=30_000, authors=1_600, duration_s=3 * _DAY_S),
}
