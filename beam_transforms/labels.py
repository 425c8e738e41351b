"""Labels: what followed an impression, under a policy that says when it is known (METHODS: labels in a stream)."""

import abc
import dataclasses

import numpy as np

from beam_transforms.columnar import Columns, Timeline
from beam_transforms.schema import EventKind, Task


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a policy emits: E sets of labels for K tasks. An impression may have none yet, one, or several over time.

    Attributes:
        impression: int64 (E,), the row of the impression that each is about.
        emitted_ms: int64 (E,), the event time at which it is known.
        label: float32 (E, K), 1 where the task's event followed.
        mask: float32 (E, K), 0 where the label isn't known and must not be learned from.
        weight: float32 (E, K), factor of the loss.
    """

    impression: np.ndarray
    emitted_ms: np.ndarray
    label: np.ndarray
    mask: np.ndarray
    weight: np.ndarray


class LabelPolicy(abc.ABC):
    """When is a label known, and what is it then? One interface for every policy."""

    @abc.abstractmethod
    def label(self, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int) -> Labels:
        """Labels the impressions, as far as that is possible by the watermark.

        Args:
            events: Columns of `schema.EVENT_COLUMNS`: all events of the users in `impressions`.
            impressions: `user_id`, `live_id` and `timestamp_ms`, each of shape (B,).
            watermark_ms: All events earlier than this are there.
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

    def label(self, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int) -> Labels:
        start = impressions["timestamp_ms"]
        window_end = start + int(self.window_s * 1000)
        next_impression = _next_impression(impressions)
        label = np.zeros((len(start), len(tasks)), dtype=np.float32)
        for column, task in enumerate(tasks):
            needed = max(task.watch_s or 0, task.within_s or 0)
            if needed > self.window_s:
                raise ValueError(f"task {task.name!r} needs {needed} s, the fast window has {self.window_s} s")
            if task.watch_s is not None:
                watched_ms = _watched_ms(events, impressions, np.minimum(window_end, next_impression), window_end)
                label[:, column] = watched_ms >= task.watch_s * 1000
                continue
            end = window_end if task.within_s is None else start + int(task.within_s * 1000)
            label[:, column] = _first_event(events, impressions, task.kind) < np.minimum(end, next_impression)
        known = np.flatnonzero(window_end <= watermark_ms)
        ones = np.ones((len(known), len(tasks)), dtype=np.float32)
        return Labels(known, window_end[known], label[known], ones, ones)


def _keys(columns: Columns, rows: np.ndarray | slice = slice(None)) -> list[np.ndarray]:
    return [columns["user_id"][rows], columns["live_id"][rows]]


_NEVER_MS = np.iinfo(np.int64).max


def _next_impression(impressions: Columns) -> np.ndarray:
    timeline = Timeline(_keys(impressions), impressions["timestamp_ms"], _keys(impressions))
    return _first_at_or_after(timeline, impressions, impressions["timestamp_ms"] + 1)


def _first_event(events: Columns, impressions: Columns, kind: EventKind) -> np.ndarray:
    chosen = events["kind"] == kind
    timeline = Timeline(_keys(events, chosen), events["timestamp_ms"][chosen], _keys(impressions))
    return _first_at_or_after(timeline, impressions, impressions["timestamp_ms"])


def _first_at_or_after(timeline: Timeline, queries: Columns, since: np.ndarray) -> np.ndarray:
    """Time of the key's first event at or after `since`, shape (queries,); the largest integer if there is none."""
    if not len(timeline.timestamps):
        return np.full(len(since), _NEVER_MS)
    place = timeline.before(since)
    found = place < timeline.end
    return np.where(found, timeline.timestamps[np.minimum(place, len(timeline.timestamps) - 1)], _NEVER_MS)


def _watched_ms(events: Columns, impressions: Columns, entry_before: np.ndarray, window_end: np.ndarray) -> np.ndarray:
    entry = _first_event(events, impressions, EventKind.ENTER)
    entered = entry < entry_before
    chosen = events["kind"] == EventKind.LEAVE
    timeline = Timeline(_keys(events, chosen), events["timestamp_ms"][chosen], _keys(impressions))
    leave = _first_at_or_after(timeline, impressions, np.where(entered, entry, 0))
    return np.where(entered, np.minimum(leave, window_end) - np.where(entered, entry, 0), 0)
