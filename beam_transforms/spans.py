"""Spans: periods of event time, each with a train and a later eval part."""

import dataclasses
import datetime

import numpy as np

HOUR_MS = 3_600_000
_FOREVER_MS = 4_102_444_800_000  # 2100, the end of the times that sources take for sane


@dataclasses.dataclass(frozen=True)
class SpanPlan:
    """Cuts event time into spans, numbered from the epoch, and the last part of each span off for evaluation.

    Attributes:
        length_ms: Length of a span in milliseconds; span N is [N * length, (N + 1) * length).
        eval_fraction: Share of the span's time, at its end, whose examples evaluate and don't train.

    Raises:
        ValueError: If the length isn't positive or the fraction isn't inside (0, 1).
    """

    length_ms: int = HOUR_MS
    eval_fraction: float = 0.2

    def __post_init__(self) -> None:
        if self.length_ms <= 0:
            raise ValueError(f"length_ms must be positive, got {self.length_ms}")
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"eval_fraction must be between 0 and 1, got {self.eval_fraction}")

    def span(self, timestamp_ms: np.ndarray) -> np.ndarray:
        return timestamp_ms // self.length_ms

    def is_eval(self, timestamp_ms: np.ndarray) -> np.ndarray:
        return timestamp_ms >= self.eval_begin_ms(self.span(timestamp_ms))

    def begin_ms(self, span: int) -> int:
        return span * self.length_ms

    def eval_begin_ms(self, span: np.ndarray) -> np.ndarray:
        return (span + 1) * self.length_ms - int(self.length_ms * self.eval_fraction)


@dataclasses.dataclass(frozen=True)
class SingleSpan(SpanPlan):
    """Everything is span 0; what is at or after a given time evaluates.

    Attributes:
        cut_ms: The time, in milliseconds.
    """

    cut_ms: int = 0

    def span(self, timestamp_ms: np.ndarray) -> np.ndarray:
        return np.zeros_like(timestamp_ms)

    def begin_ms(self, span: int) -> int:
        return 0 if span == 0 else _FOREVER_MS

    def eval_begin_ms(self, span: np.ndarray) -> np.ndarray:
        return np.full_like(span, self.cut_ms)


def utc(timestamp_ms: int) -> str:
    """A time in milliseconds as people read it."""
    return datetime.datetime.fromtimestamp(timestamp_ms / 1000, datetime.UTC).isoformat(timespec="seconds")
