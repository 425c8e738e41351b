"""LearnedWindow: what became of one window of examples."""

import dataclasses
import math
from typing import Any

from tfx_pipeline.near_real_time.progressive_validation import Figures

LEARNED, ROLLED_BACK, SKIPPED = "learned", "rolled_back", "skipped"
EMPTY, REPEATED, STOPPED = "empty", "repeated", "stopped"


@dataclasses.dataclass(frozen=True)
class LearnedWindow:
    """What became of one window.

    Attributes:
        end_ms: The window's end.
        examples: Its number of examples.
        decision: "learned"; "rolled_back" to the last good model; "skipped", as the loop is behind; "empty", without an
            example; "repeated", as it was dealt with before a restart; "stopped", after too many rollbacks in a row.
        reasons: Why, in sentences.
        notes: What couldn't be judged, in sentences.
        window: Figures of the scores that were given before learning; None if it wasn't scored.
        trailing: The same over the trailing windows, this one among them.
        loss: Mean loss of the steps; None if there was none.
        loss_after: Mean cross-entropy of the tasks on the window's examples after learning.
        steps: Number of steps.
        rows_left_out: Examples beyond the most steps of a window.
    """

    end_ms: int
    examples: int
    decision: str
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    window: Figures | None = None
    trailing: Figures | None = None
    loss: float | None = None
    loss_after: float | None = None
    steps: int = 0
    rows_left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain types; what isn't a finite number is null."""
        plain = dataclasses.asdict(self)
        plain["metrics"] = {"window": plain.pop("window"), "trailing": plain.pop("trailing")}
        losses = {"train": plain.pop("loss"), "after": plain.pop("loss_after")}
        known = {name: value for name, value in losses.items() if value is not None and math.isfinite(value)}
        plain["losses"] = dict.fromkeys(losses) | known
        return plain
