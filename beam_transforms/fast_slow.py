"""The label policy of two windows: labels soon, and a correction of those that came too soon."""

import numpy as np

from beam_transforms.columnar import Columns
from beam_transforms.labels import LabelPolicy, Labels, concatenate_labels, require_time_for
from beam_transforms.room_actions import RoomActions
from beam_transforms.schema import Task


class FastSlow(LabelPolicy):
    """Two windows: the fast one emits all labels seen so far, the slow one corrects the positives that it missed.

    - At t + fast: one row, mask 1 for all tasks, label 1 where the action fell in [t, t + fast), as in `FastWindow`.
    - At t + slow: for tasks whose action fell in [t + fast, t + slow), the late positives, two rows with mask 1 for
      these tasks only: one of label 1 and weight +1, one of label 0 and weight -1. Impressions without a late positive
      emit nothing more. After t + slow an action is lost to the policy.

    Windows, watch time and `within_s` are those of `FastWindow`, with this policy's slow window as the limit: the next
    impression of the room ends both windows, exits don't.

    The algebra. The loss of a late positive is to take back the false negative learned before:

        -(log p - log(1 - p)) = -log p + log(1 - p) = BCE(1, p) - BCE(0, p)
                              = (+1) BCE(1, p) + (-1) BCE(0, p)

    which is the sum of the two rows, exact wherever a loss is multiplied by its weight. With the fast row, whose loss
    was BCE(0, p), the sum over all three is BCE(1, p): that of a plain positive, and so is the gradient. With the logit
    z, p = sigmoid(z), the two rows' loss is -z: it has no lower bound of its own, and relies on the false negative
    having been learned at the same learning rate and batch size.

    Whoever counts rows (metrics, numbers of positives) must leave out rows of negative weight, and count the late
    positive instead of the fast row's negative.

    Args:
        fast_s: Length of the fast window in seconds.
        slow_s: Length of the slow window in seconds, from the impression as well.

    Raises:
        ValueError: If not 0 < fast_s < slow_s or, when labelling, the slow window is shorter than a task needs.

    Reference: Moment&Cross (arXiv:2408.05709), the fast and slow window that it starts from (L_fast, L_slow).
    """

    def __init__(self, fast_s: float = 300.0, slow_s: float = 3600.0) -> None:
        if not 0 < fast_s < slow_s:
            raise ValueError(f"fast_s must be positive and less than slow_s, got {fast_s} and {slow_s}")
        self.fast_ms, self.horizon_ms = int(fast_s * 1000), int(slow_s * 1000)

    def label(self, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int) -> Labels:
        require_time_for(tasks, self.horizon_ms / 1000, "the slow window")
        start = impressions["timestamp_ms"]
        known_ms = RoomActions(events, impressions).fulfilled_ms(tasks)
        fast_end, slow_end = start + self.fast_ms, start + self.horizon_ms
        soon = known_ms <= fast_end[:, None]
        late = ~soon & (known_ms <= slow_end[:, None])
        fast = np.flatnonzero(fast_end <= watermark_ms)
        slow = np.flatnonzero((slow_end <= watermark_ms) & late.any(axis=1))
        return concatenate_labels(
            [
                _rows(fast, fast_end, soon[fast], np.ones_like(soon[fast]), weight=1),
                _rows(slow, slow_end, late[slow], late[slow], weight=1),
                _rows(slow, slow_end, np.zeros_like(late[slow]), late[slow], weight=-1),
            ]
        )


def _rows(impression: np.ndarray, emitted_ms: np.ndarray, label: np.ndarray, mask: np.ndarray, weight: int) -> Labels:
    weights = np.full(label.shape, weight, dtype=np.float32)
    return Labels(impression, emitted_ms[impression], label.astype(np.float32), mask.astype(np.float32), weights)
