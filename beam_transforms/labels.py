"""Labels: what followed an impression, under a policy that says when it is known (METHODS: labels in a stream)."""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from beam_transforms.columnar import Columns
from beam_transforms.room_actions import RoomActions
from beam_transforms.schema import Task


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a policy emits: E sets of labels for K tasks. An impression may have none yet, one, or several over time.

    Attributes:
        impression: int64 (E,), the row of the impression that each is about.
        emitted_ms: int64 (E,), the event time at which it is known.
        label: float32 (E, K), 1 where the task's event followed.
        mask: float32 (E, K), 0 where the label isn't known and must not be learned from.
        weight: float32 (E, K), factor of the loss. It is negative where a label learned before is taken back.
    """

    impression: np.ndarray
    emitted_ms: np.ndarray
    label: np.ndarray
    mask: np.ndarray
    weight: np.ndarray


class LabelPolicy(abc.ABC):
    """When is a label known, and what is it then? One interface for every policy.

    What is emitted at `emitted_ms` follows from the events and impressions earlier than that alone. So a stream may
    call `label` with one watermark after the other, and take the labels with last watermark < emitted_ms <= watermark:
    together they are those of one call at the last watermark. It may forget what can't matter any more: at a watermark
    w, impressions earlier than w - `horizon_ms`, and events earlier than the oldest kept impression - `lookback_ms`.

    Attributes:
        horizon_ms: An impression at t has its last labels at t + horizon_ms at the latest.
        lookback_ms: How far back before an impression events matter for its labels.
    """

    horizon_ms: int
    lookback_ms: int = 0

    @abc.abstractmethod
    def label(self, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int) -> Labels:
        """Labels the impressions, as far as that is possible by the watermark.

        Args:
            events: Columns of `schema.EVENT_COLUMNS`: all events of the users in `impressions`.
            impressions: `user_id`, `live_id` and `timestamp_ms`, each of shape (B,), without duplicates.
            watermark_ms: All events and impressions earlier than this are there.
        """


class FastWindow(LabelPolicy):
    """The fast window of `fast_slow`: all positives and negatives seen within five minutes of the impression.

    An action belongs to the user's last impression of the room at or before it, if it falls into [t, t + window), so a
    second impression of the room ends the first one's window. Watch time counts from the entry that the impression led
    to until the exit, or the end of the window for who is still there. An impression whose window hasn't ended at the
    watermark isn't known yet.

    Args:
        window_s: Length of the window in seconds.

    Raises:
        ValueError: If the window isn't positive or, when labelling, is shorter than a task needs.
    """

    def __init__(self, window_s: float = 300.0) -> None:
        if window_s <= 0:
            raise ValueError(f"window_s must be positive, got {window_s}")
        self.window_s = window_s
        self.horizon_ms = int(window_s * 1000)

    def label(self, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int) -> Labels:
        require_time_for(tasks, self.window_s, "the fast window")
        window_end = impressions["timestamp_ms"] + self.horizon_ms
        known = np.flatnonzero(window_end <= watermark_ms)
        label = RoomActions(events, impressions).fulfilled_ms(tasks)[known] <= window_end[known, None]
        ones = np.ones(label.shape, dtype=np.float32)
        return Labels(known, window_end[known], label.astype(np.float32), ones, ones)


def require_time_for(tasks: tuple[Task, ...], seconds: float, what: str) -> None:
    """Raises a ValueError that names the first task which needs more than `seconds` after the impression."""
    for task in tasks:
        needed = max(task.watch_s or 0, task.within_s or 0)
        if needed > seconds:
            raise ValueError(f"task {task.name!r} needs {needed} s, {what} has {seconds} s")


def labels_at(positive_ms: np.ndarray, negative_ms: np.ndarray, watermark_ms: int) -> Labels:
    """Labels from the time at which each becomes known; those of one impression and one time share a row.

    Args:
        positive_ms: int64 (B, K), when the task is known to be positive, `NEVER_MS` if it isn't.
        negative_ms: int64 (B, K), the same for negative; of each pair one at least is `NEVER_MS`.
        watermark_ms: What is known later than this is left out.
    """
    known_ms = np.minimum(positive_ms, negative_ms)
    impression, task = np.nonzero(known_ms <= watermark_ms)
    times = known_ms[impression, task]
    order = np.lexsort([times, impression])
    impression, task, times = impression[order], task[order], times[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (impression[1:] != impression[:-1]) | (times[1:] != times[:-1])
    row = np.cumsum(fresh) - 1
    label = np.zeros((int(fresh.sum()), known_ms.shape[1]), dtype=np.float32)
    mask = np.zeros_like(label)
    mask[row, task] = 1
    label[row, task] = positive_ms[impression, task] == times
    return Labels(impression[fresh], times[fresh], label, mask, np.ones_like(label))


def concatenate_labels(parts: Sequence[Labels]) -> Labels:
    """One below the other; all parts are about the same impressions and tasks."""
    columns = [field.name for field in dataclasses.fields(Labels)]
    return Labels(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))
