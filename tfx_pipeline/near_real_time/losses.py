"""StreamLosses: what training on one window gave."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class StreamLosses:
    """What training on one window gave.

    Attributes:
        steps: float32 (steps,), the whole loss of each step, before it: the tasks' and the forecasters' own.
        rows: Examples that were learned from.
        rows_left_out: Examples beyond the most steps of a window.
    """

    steps: np.ndarray
    rows: int
    rows_left_out: int

    @property
    def mean(self) -> float:
        """NaN for a window without a step."""
        return float(self.steps.mean()) if len(self.steps) else float("nan")
