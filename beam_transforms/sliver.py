"""The label policy of Sliver: small windows that slide along from the impression."""

from beam_transforms.columnar import Columns
from beam_transforms.labels import LabelPolicy, Labels, labels_at, require_time_for
from beam_transforms.room_actions import RoomActions
from beam_transforms.schema import WINDOW_MS, Task
from beam_transforms.visit_outcomes import visit_outcomes


class Sliver(LabelPolicy):
    """Labels at the end of windows of 30 s counted from the impression: positives soon, negatives once they are sure.

    For an impression at t, window k is [t + (k - 1) w, t + k w). At its end, t + k w, one row is emitted if there is
    anything to say, with mask 1 for the tasks

    - that are positive: the task's first action fell in window k (watch time: it reached `watch_s` by the window's
      end), before the room was shown to the user again;
    - that are negative: in window k the user left without the action. ENTER is negative when the user left, with or
      without an entry; the others once the user has entered and left.

    All others have mask 0: not labelled yet. So a task of an impression is labelled once at most, and a positive never
    follows a negative.

    Departures and choices where the paper is silent. A later action of the same task adds no further positive. An
    impression that is neither left nor shown again counts as left at t + horizon, its last window's end. Without an
    entry, ENTER is negative when the room is shown again or at the horizon; the other tasks are never labelled (they
    are learned given the click), unless `label_unclicked` makes them negative at the same time. A re-entry in a window
    after the exit's belongs to no impression, unless another one led to it. A task with `within_s` is decided at the
    end of the window in which these seconds are over, clicked or not. Details: `visit_outcomes`.

    Args:
        window_s: Length of a window in seconds.
        horizon_s: Time after which the user counts as having left; a multiple of `window_s`.
        label_unclicked: Whether tasks other than ENTER become negative for impressions without an entry.

    Raises:
        ValueError: If the window isn't positive, the horizon isn't a multiple of it or, when labelling, is shorter
            than a task needs.

    Reference: Sliver (Ensure Timeliness and Accuracy: A Novel Sliding Window Data Stream Paradigm for Live Streaming
    Recommendation, 2024), the labelling of its sliding window data stream.
    """

    def __init__(
        self, window_s: float = WINDOW_MS / 1000, horizon_s: float = 3600.0, label_unclicked: bool = False
    ) -> None:
        self.window_ms, self.horizon_ms = int(window_s * 1000), int(horizon_s * 1000)
        if self.window_ms <= 0:
            raise ValueError(f"window_s must be at least a millisecond, got {window_s}")
        if self.horizon_ms <= 0 or self.horizon_ms % self.window_ms:
            raise ValueError(f"horizon_s must be a multiple of window_s = {window_s}, got {horizon_s}")
        self.label_unclicked = label_unclicked

    def label(self, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int) -> Labels:
        require_time_for(tasks, self.horizon_ms / 1000, "the horizon of sliver")
        outcomes = visit_outcomes(
            RoomActions(events, impressions), tasks, self.window_ms, self.horizon_ms, self.label_unclicked
        )
        return labels_at(outcomes.positive_ms, outcomes.negative_ms, watermark_ms)
