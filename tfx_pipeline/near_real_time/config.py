"""What `foresight stream` can be told that isn't a path, as dataclasses with defaults that work."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from tfx_pipeline.config import read_config

POLICIES = ("fast_window", "first_only", "sliver", "fast_slow")
"""When labels are known, see `beam_transforms.labels`."""


@dataclasses.dataclass(frozen=True)
class StreamTrainingConfig:
    """How the model learns from one window.

    Attributes:
        batch_size: Rows of a step. Each step has as many, so that nothing is traced anew: rows that fill a batch up are
            some of the window's own once more, with weight 0.
        passes: Times that a window's examples are learned from.
        most_steps: Of a window, however many examples it has; what is beyond them isn't learned from, and is counted.
        learning_rate: Of LazyAdam.
        scoring_rows: Rows that are scored at once; a window has any number of them.
        seed: Of new weights, and of the order within a window.
    """

    batch_size: int = 128
    passes: int = 1
    most_steps: int = 64
    learning_rate: float = 1e-3
    scoring_rows: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "batch_size", "passes", "most_steps", "learning_rate", "scoring_rows")


@dataclasses.dataclass(frozen=True)
class StreamGateConfig:
    """What a window has to show before the model that learned from it is pushed. See `gate`.

    Attributes:
        largest_loss_factor: A window's loss (before learning, in training, and on its examples afterwards) may be this
            many times the median of the trailing windows. One beyond it counts where learning made it so, or where the
            last good model has less than half of it on the same examples.
        largest_fall: A task's AUC in a window, scored before learning, may be this much below that of the trailing
            windows at their best. One beyond it counts where it is proven (`standard_errors`) and the last good model
            does better on the same examples by `smallest_advantage`: what both do badly on is a world that has changed,
            and that is learned.
        standard_errors: A fall has to be greater than largest_fall by so many standard errors (Hanley and McNeil) of
            the window's AUC, as few examples tell little.
        smallest_advantage: Of the last good model over the current one, in AUC.
        fewest_examples: Of a window with fewer the losses have to be finite, and aren't compared with others.
        fewest_positives: With fewer positive, or fewer negative labels a task isn't judged by a window alone, but
            together with those before it, back to the last good model.
        trailing_windows: What "trailing" means in loss and AUC; at least fewest_windows, and 2.
        trailing_examples: At most so many examples of these windows are kept.
        fewest_windows: Before so many windows with examples have passed, changes aren't judged: finite numbers alone.
        smallest_auc: Of each task that has enough positives over the trailing windows: before a first model is
            published. A first model is judged by value alone.
        first_after_windows: A first model learns from so many windows with labels of each task before it is judged.
        most_rollbacks: After so many rollbacks in a row training stops.
    """

    largest_loss_factor: float = 5.0
    largest_fall: float = 0.05
    standard_errors: float = 2.0
    smallest_advantage: float = 0.02
    fewest_examples: int = 50
    fewest_positives: int = 20
    trailing_windows: int = 20
    trailing_examples: int = 50_000
    fewest_windows: int = 5
    smallest_auc: float = 0.55
    first_after_windows: int = 10
    most_rollbacks: int = 5

    def __post_init__(self) -> None:
        names = [field.name for field in dataclasses.fields(self)]
        _require_positive(self, *(n for n in names if n not in ("standard_errors", "smallest_advantage")))
        _require_not_negative(self, "standard_errors", "smallest_advantage")
        if self.trailing_windows < max(self.fewest_windows, 2):
            raise ValueError(
                f"trailing_windows must be at least 2 and fewest_windows ({self.fewest_windows}), got "
                f"{self.trailing_windows}"
            )


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """One near-real-time loop.

    Attributes:
        model: Arguments of `RankerConfig` that aren't the schema's, for a first model; a base brings its own.
        training: How a window is learned from.
        gate: What a window has to show.
        policy: When labels are known, one of `POLICIES`. With "fast_window" a positive and a negative of a task are
            known equally long after their impressions. With "first_only" and "sliver" they aren't: figures then compare
            impressions of different times, and the model learns to tell these, see docs/decisions/0015. With
            "fast_slow" nothing may be skipped (max_lag_s 0): it takes back negatives an hour later, and taking back
            what was never learned can make the loss fall for ever.
        policy_options: Arguments of the policy by name. Without any, fast_window waits 300 s, for entries and for watch
            time of up to 15 s only 30 s, for a task with `within_s` as long as that; with `window_s` alone, so long for
            all. `horizon_s` of first_only and sliver is 300 unless it is given.
        lateness_s: How late events may be. A window's labels are final when the newest event is so much past its end:
            all that is learned waits for it.
        span_s: Length of a span, those of the pipeline.
        eval_fraction: Share of each span that the pipeline doesn't train on. The loop learns from all of it.
        max_lag_s: Where a window's end lies more than so many seconds back when its turn comes, the loop skips training
            until it has caught up; 0 never skips. A source that is itself late doesn't count: nothing is skipped where
            all that there was has been read.
        keep_versions: Versions that stay in the model's folder: at least 2, as one is served while the next is loaded.
        poll_s: Seconds between looks at a source that had nothing new.
        warmup_rows: Examples in each warm-up request of a first model.
        serving_timeout_s: How long a version may take until it answers.
    """

    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: StreamTrainingConfig = dataclasses.field(default_factory=StreamTrainingConfig)
    gate: StreamGateConfig = dataclasses.field(default_factory=StreamGateConfig)
    policy: str = "fast_window"
    policy_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    lateness_s: float = 5.0
    span_s: float = 3600.0
    eval_fraction: float = 0.2
    max_lag_s: float = 300.0
    keep_versions: int = 5
    poll_s: float = 0.1
    warmup_rows: int = 32
    serving_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        _require_positive(self, "span_s", "keep_versions", "poll_s", "warmup_rows", "serving_timeout_s")
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        _require_not_negative(self, "lateness_s", "max_lag_s")
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"eval_fraction must be between 0 and 1, got {self.eval_fraction}")
        if self.keep_versions < 2:
            raise ValueError(
                f"keep_versions must be at least 2, got {self.keep_versions}: one is served while the next is loaded"
            )
        if self.policy == "fast_slow" and self.max_lag_s > 0:
            raise ValueError(
                f"policy fast_slow takes back what was learned an hour before, so nothing may be skipped: set "
                f"max_lag_s to 0, got {self.max_lag_s:g}"
            )


def load_stream_config(path: Path) -> StreamConfig:
    """Reads a configuration from a YAML file; what it leaves out keeps its default.

    Raises:
        ValueError: If the file is no YAML mapping, a key isn't known or a value has the wrong type.
    """
    return read_config(StreamConfig, path)


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a positive number, got {value}")


def _require_not_negative(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a number and must not be negative, got {value}")
