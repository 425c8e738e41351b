"""What the users of impressions did in the rooms that they were shown: look-ups for the label policies."""

import functools
import math

import numpy as np

from beam_transforms.columnar import Columns
from beam_transforms.schema import EventKind, Task

NEVER_MS = int(np.iinfo(np.int64).max)
"""Stands for the time of what doesn't happen."""


class RoomActions:
    """Events of (user, room) pairs in the order of time, looked up from the B impressions of the pairs.

    An action belongs to the user's last impression of the room at or before it. Events of pairs without an impression
    are left out at the start. Any order of the rows gives the same answers.

    Args:
        events: `kind`, `user_id`, `live_id` and `timestamp_ms`, each of shape (events,).
        impressions: `user_id`, `live_id` and `timestamp_ms`, each of shape (B,).

    Attributes:
        start: int64 (B,), when the impression happened.
        next_impression: int64 (B,), when the room is shown to the user again, `NEVER_MS` if it isn't.

    Raises:
        ValueError: If there are too many pairs over too long a time for one 64-bit code.
    """

    def __init__(self, events: Columns, impressions: Columns) -> None:
        count = len(impressions["timestamp_ms"])
        pairs = np.zeros(count + len(events["timestamp_ms"]), dtype=np.int64)
        groups = 1
        for name in ("user_id", "live_id"):
            values, codes = np.unique(np.concatenate([impressions[name], events[name]]), return_inverse=True)
            distinct, pairs = np.unique(pairs * len(values) + codes, return_inverse=True)
            groups = len(distinct)
        shown = np.zeros(groups, dtype=bool)
        shown[pairs[:count]] = True
        kept = np.flatnonzero(shown[pairs[count:]])
        times = np.concatenate([impressions["timestamp_ms"], events["timestamp_ms"][kept]])
        self._first_ms = int(times.min()) if len(times) else 0
        self._width = (int(times.max()) - self._first_ms + 1) if len(times) else 1
        if groups * (self._width + 1) >= 2**63:
            raise ValueError(
                f"{groups} pairs of user and room over {self._width} ms do not fit one shard; use more shards or check "
                "the timestamps"
            )
        # A place is a pair and a time in one number. One place between two pairs belongs to no time.
        self._base = pairs[:count] * (self._width + 1)
        self._kinds = events["kind"][kept]
        self._places = pairs[count:][kept] * (self._width + 1) + (times[count:] - self._first_ms)
        self.start = impressions["timestamp_ms"]
        own = self._base + (self.start - self._first_ms)
        self.next_impression = self._first(np.sort(own), self.start + 1)

    @functools.cached_property
    def entry(self) -> np.ndarray:
        """Time of the first ENTER at or after each impression, int64 (B,)."""
        return self.first(EventKind.ENTER, self.start)

    @functools.cached_property
    def leave(self) -> np.ndarray:
        """Time of the first LEAVE at or after `entry`, int64 (B,)."""
        return self.first(EventKind.LEAVE, self.entry)

    def first(self, kind: EventKind, since: np.ndarray) -> np.ndarray:
        """Time of the pair's first event of `kind` at or after `since`, int64 (B,); `NEVER_MS` if there is none."""
        return self._first(self._of_kind(kind), since)

    def fulfilled_ms(self, tasks: tuple[Task, ...]) -> np.ndarray:
        """When each impression's action is known, however late: an event of its task, or watch time being reached.

        A task with `within_s` counts events before start + within_s. An event at e is known by e + 1. `watch_s` is
        reached at entry + watch_s if the user hasn't left before, and known by then; of several visits after one
        impression the first counts.

        Returns:
            int64 (B, K): everything earlier than this has to be there for the action to be known; `NEVER_MS` without.
        """
        known = np.full((len(self.start), len(tasks)), NEVER_MS)
        for column, task in enumerate(tasks):
            if task.watch_s is not None:
                reached = np.where(self.entry < self.next_impression, self.entry, 0) + watch_ms(task)
                acted = (self.entry < self.next_impression) & (reached <= self.leave)
                known[:, column] = np.where(acted, reached, NEVER_MS)
                continue
            event = self.first(task.kind, self.start)
            end = self.next_impression
            if task.within_s is not None:
                end = np.minimum(end, self.start + within_ms(task))
            acted = event < end
            known[acted, column] = event[acted] + 1
        return known

    def last_fulfilled(self, task: Task, before: np.ndarray) -> np.ndarray:
        """Time of the pair's last action of `task` earlier than `before`, int64 (B,); -`NEVER_MS` if there is none.

        With `watch_s` that is the time of the ENTER whose visit reached it. Whether an impression led to it isn't
        asked.
        """
        places = self._of_kind(task.kind)
        if task.watch_s is not None:
            places, leaves = self._of_kind(EventKind.ENTER), self._of_kind(EventKind.LEAVE)
            index = np.searchsorted(leaves, places)
            until = np.append(leaves, NEVER_MS)[index]
            ends = (places // (self._width + 1) + 1) * (self._width + 1)
            places = places[(until >= ends) | (until - places >= watch_ms(task))]
        index = np.searchsorted(places, self._base + self._offset(before)) - 1
        place = np.append(places, -1)[index]
        return np.where(place >= self._base, place - self._base + self._first_ms, -NEVER_MS)

    def _of_kind(self, kind: EventKind) -> np.ndarray:
        return np.sort(self._places[self._kinds == kind])

    def _offset(self, times: np.ndarray) -> np.ndarray:
        return np.clip(times, self._first_ms, self._first_ms + self._width) - self._first_ms

    def _first(self, places: np.ndarray, since: np.ndarray) -> np.ndarray:
        index = np.searchsorted(places, self._base + self._offset(since))
        place = np.append(places, NEVER_MS)[index]
        return np.where(place < self._base + self._width, place - self._base + self._first_ms, NEVER_MS)


def watch_ms(task: Task) -> int:
    """`watch_s` in whole milliseconds, rounded up; 0 for a task without."""
    return math.ceil((task.watch_s or 0) * 1000)


def within_ms(task: Task) -> int:
    """`within_s` in whole milliseconds, rounded down; 0 for a task without."""
    return int((task.within_s or 0) * 1000)
