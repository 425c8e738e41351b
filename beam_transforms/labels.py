"""Labels: what followed an impression, under a policy that says when it is known (METHODS: labels in a stream)."""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence

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

    Some tasks may have a window of their own: clicks are known sooner than gifts. An impression then has a row at the
    end of each window, with mask 1 for the tasks that have it. A positive and a negative of one task are known equally
    long after their impressions, whatever the windows: so the labels that arrive at one time are about impressions of
    one time, and tell nothing that a request doesn't know. (Of `sliver` and `first_only` that isn't so.)

    Args:
        window_s: Length of the window in seconds.
        task_window_s: Task name -> length of its window, where that is another one.

    Raises:
        ValueError: If a window isn't positive or, when labelling, is shorter than its task needs, or of no task.
    """

    def __init__(self, window_s: float = 300.0, task_window_s: Mapping[str, float] | None = None) -> None:
        self.window_s, self.task_window_s = window_s, dict(task_window_s or {})
        for name, seconds in (("window_s", window_s), *self.task_window_s.items()):
            if not 0.001 <= seconds < math.inf:
                raise ValueError(f"{name} must be a number of seconds, at least .001, got {seconds}")
        self.horizon_ms = int(max(window_s, *self.task_window_s.values(), 0) * 1000)

    def label(self, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int) -> Labels:
        unknown = sorted(set(self.task_window_s) - {task.name for task in tasks})
        if unknown:
            raise ValueError(
                f"task_window_s names {', '.join(unknown)}, the tasks are {', '.join(task.name for task in tasks)}"
            )
        windows_s = [self.task_window_s.get(task.name, self.window_s) for task in tasks]
        for task, window_s in zip(tasks, windows_s, strict=True):
            require_time_for((task,), window_s, "the fast window")
        known_ms = RoomActions(events, impressions).fulfilled_ms(tasks)
        parts = []
        for window_s in sorted(set(windows_s)) or [self.window_s]:
            window_end = impressions["timestamp_ms"] + int(window_s * 1000)
            known = np.flatnonzero(window_end <= watermark_ms)
            of_window = np.array([other == window_s for other in windows_s], dtype=bool)
            label = (known_ms[known] <= window_end[known, None]) & of_window
            mask = np.broadcast_to(of_window.astype(np.float32), label.shape).copy()
            parts.append(
                Labels(known, window_end[known], label.astype(np.float32), mask, np.ones(label.shape, np.float32))
            )
        return concatenate_labels(parts)


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
