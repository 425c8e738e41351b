"""TasteChangeConfig: how large the experiment of a taste change is, and how the models learn."""

import dataclasses
from typing import Any

import numpy as np

from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.simulator.clock import activity
from beam_transforms.sources.simulator.simulator_config import SimulatorConfig
from tfx_pipeline.near_real_time.config import StreamTrainingConfig
from tfx_pipeline.taste_change.recovery import LEVEL_WINDOWS, WITHIN_WINDOWS

NOON_MS = 1_748_822_400_000 + 43_200_000
"""2025-06-02 12:00 UTC: when preferences flip. The hourly pipeline's next model is that of 13:00."""

_DAY_S = 86_400
_FEWEST_WINDOWS = 10


@dataclasses.dataclass(frozen=True)
class TasteChangeConfig:
    """One experiment.

    Attributes:
        users: Users of the platform.
        authors: Authors of the platform.
        impressions_per_window: Rooms shown in 30 s at noon. A platform of some size: of the demo's hundred, no window
            would tell GAUC.
        history_s: Simulated seconds before noon.
        after_s: The same after noon. From 13:00 on the hourly pipeline's next model answers, if it reaches that far.
        compared_windows: Windows before noon in which both models answer; what is earlier they have learned together.
        label_s: Seconds after the impression in which what followed is a label. A click of the feed comes at once.
        lateness_s: As of `foresight stream`: labels that are known less than this before a window's end wait for the
            next window.
        serving_s: Seconds from a window's end to the first answer of the model that has learned from it.
        model: Settings of the ranker beside the schema's. It has no forecasters: what a room shows next isn't what
            changes. Whole id vectors are dropped at every other place, so that several passes over a window don't learn
            its users by heart.
        history_training: How both models learn what is before the compared windows, and the hourly one its next hour.
        training: How the near-real-time model learns from a window.
        resamples: Of the bootstrap.
        seed: Of the platform, the models and the bootstrap.
    """

    users: int = 12_000
    authors: int = 400
    impressions_per_window: int = 5_000
    history_s: int = 2_400
    after_s: int = 900
    compared_windows: int = 20
    label_s: float = 30.0
    lateness_s: float = 5.0
    serving_s: float = 5.0
    model: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "variant": "base",
            "embedding_dropout": 0.5,
            "user_bins": 32_768,
            "author_bins": 2_048,
        }
    )
    history_training: StreamTrainingConfig = dataclasses.field(
        default_factory=lambda: StreamTrainingConfig(
            batch_size=512, most_steps=1_000_000, learning_rate=2e-3, scoring_rows=1024
        )
    )
    training: StreamTrainingConfig = dataclasses.field(
        default_factory=lambda: StreamTrainingConfig(
            batch_size=256, passes=4, most_steps=1_000_000, learning_rate=2e-3, scoring_rows=1024
        )
    )
    resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        windows = {"history_s": self.history_s, "after_s": self.after_s}
        for name, seconds in windows.items():
            if seconds <= 0 or seconds * 1000 % WINDOW_MS:
                raise ValueError(f"{name} must be a positive multiple of {WINDOW_MS // 1000}, got {seconds}")
        if self.after_s * 1000 < _FEWEST_WINDOWS * WINDOW_MS:
            raise ValueError(
                f"after_s must be at least {_FEWEST_WINDOWS * WINDOW_MS // 1000}: recovery within {WITHIN_WINDOWS} "
                f"windows is judged by those behind them; got {self.after_s}"
            )
        if self.compared_windows < LEVEL_WINDOWS or self.compared_windows * WINDOW_MS >= self.history_s * 1000:
            raise ValueError(
                f"compared_windows must be at least {LEVEL_WINDOWS} and lie within history_s = {self.history_s}, "
                f"got {self.compared_windows}"
            )
        if self.label_s < 10 or min(self.lateness_s, self.serving_s) < 0 or self.serving_s * 1000 > WINDOW_MS:
            raise ValueError(
                "label_s must be at least 10 (effective views take that long), lateness_s not negative and serving_s "
                f"at most a window, got {self.label_s}, {self.lateness_s} and {self.serving_s}"
            )
        if min(self.users, self.authors, self.impressions_per_window, self.resamples) <= 0:
            raise ValueError("users, authors, impressions_per_window and resamples must be positive")

    @property
    def simulator(self) -> SimulatorConfig:
        """The platform."""
        windows_a_day = _DAY_S * 1000 / WINDOW_MS
        at_noon = float(activity(np.array(NOON_MS)))
        return SimulatorConfig(
            users=self.users,
            authors=self.authors,
            duration_s=self.history_s + self.after_s,
            start_ms=NOON_MS - 1000 * self.history_s,
            impressions_per_user_day=self.impressions_per_window * windows_a_day / self.users / at_noon,
            seed=self.seed,
            taste_change_s=self.history_s,
        )
