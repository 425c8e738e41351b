"""The rooms that are live around the simulated moment."""

import numpy as np

from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.simulator.authors import Authors
from beam_transforms.sources.simulator.behaviour import Behaviour
from beam_transforms.sources.simulator.catalogue import Catalogue
from beam_transforms.sources.simulator.clock import activity
from beam_transforms.sources.simulator.ragged import positions_within
from beam_transforms.sources.simulator.room_content import draw_content

FIRST_LIVE_ID = 1_000_000
_HOUR_MS = 3_600_000
_SLOTS = 3  # rooms of one author that the table may hold at once: the last, the present and the next one
_LIVE_SHARE = 0.25
_FILL_UP_MS = 600_000
_SHORTEST_MIN, _LONGEST_MIN = 20.0, 420.0

_ROOM_COLUMNS = ("live_id", "author", "start_ms", "end_ms", "weight", "windows")
_WINDOW_COLUMNS = ("room", "state", "buzz", "heat", "product", "segment_end_ms", "viewed")


class Rooms:
    """A table of rooms, extended as time goes on and rid of those that ended; R rooms, W windows in all.

    Room indices are valid until the next `retire`.

    Attributes:
        live_id, author, start_ms, end_ms, windows: (R,) int64; ids rise with the time of start.
        weight: (R,) float64, how often the platform recommends a room.
        offset: (R,) int64, position of a room's first window.
        room: (W,) int32, the room of a window.
        state, buzz, heat, product: (W,), see RoomContent.
        segment_end_ms: (W,) int64.
        viewed: (W,) bool, whether the segment had a viewer and isn't taken yet.
    """

    def __init__(
        self, authors: Authors, catalogue: Catalogue, behaviour: Behaviour, start_ms: int, rng: np.random.Generator
    ) -> None:
        self._authors, self._catalogue, self._behaviour, self._rng = authors, catalogue, behaviour, rng
        self._next_id = FIRST_LIVE_ID
        # Nothing was recorded before the first moment: authors who would be live then open within ten minutes.
        opens = rng.random(authors.count) < _LIVE_SHARE * activity(np.array(start_ms))
        soon = start_ms + rng.integers(0, _FILL_UP_MS, authors.count)
        self._next_start = np.where(opens, soon, self._after_pause(np.full(authors.count, start_ms)))
        self.live_id = self.author = self.start_ms = self.end_ms = self.windows = np.empty(0, np.int64)
        self.weight = np.empty(0, np.float64)
        self.room = self.product = np.empty(0, np.int32)
        self.state = np.empty(0, np.int8)
        self.buzz = self.heat = np.empty(0, np.float32)
        self.segment_end_ms = np.empty(0, np.int64)
        self.viewed = np.empty(0, bool)
        self._index()

    def advance(self, until_ms: int) -> dict[str, np.ndarray]:
        """Adds the rooms that start before `until_ms`; returns their products as columns of `live_product`."""
        starts: list[np.ndarray] = []
        ends: list[np.ndarray] = []
        owners: list[np.ndarray] = []
        while len(due := np.flatnonzero(self._next_start < until_ms)):
            minutes = self._authors.minutes[due] * np.exp(self._rng.normal(0.0, 0.4, len(due)))
            end = self._next_start[due] + (60_000 * np.clip(minutes, _SHORTEST_MIN, _LONGEST_MIN)).astype(np.int64)
            starts.append(self._next_start[due])
            ends.append(end)
            owners.append(due)
            self._next_start[due] = self._after_pause(end)
        if not starts:
            none = np.empty(0, np.int64)
            return self._products(none, none, none)
        start, end, author = np.concatenate(starts), np.concatenate(ends), np.concatenate(owners)
        order = np.lexsort((author, start))
        start, end, author = start[order], end[order], author[order]
        windows = -(-(end - start) // WINDOW_MS)
        content = draw_content(author, windows, self._authors, self._catalogue, self._behaviour, self._rng)
        first = len(self.live_id)
        segment_end = np.repeat(start, windows) + WINDOW_MS * (positions_within(windows) + 1)
        columns = {
            "live_id": self._next_id + np.arange(len(start)),
            "author": author,
            "start_ms": start,
            "end_ms": end,
            "weight": self._authors.popularity[author] * np.exp(self._rng.normal(0.0, 0.3, len(start))),
            "windows": windows,
            "room": np.repeat(np.arange(first, first + len(start), dtype=np.int32), windows),
            "state": content.state,
            "buzz": content.buzz,
            "heat": content.heat,
            "product": content.product,
            "segment_end_ms": np.minimum(segment_end, np.repeat(end, windows)),
            "viewed": np.zeros(int(windows.sum()), bool),
        }
        for name, column in columns.items():
            setattr(self, name, np.concatenate([getattr(self, name), column]))
        self._next_id += len(start)
        self._index()
        return self._products(first + content.product_room, content.product_window, content.product_id)

    def retire(self, before_ms: int) -> None:
        """Forgets the rooms that ended before `before_ms`."""
        keep = self.end_ms >= before_ms
        if keep.all():
            return
        keep_windows = keep[self.room]
        renumbered = np.cumsum(keep, dtype=np.int32) - 1
        for name in _ROOM_COLUMNS:
            setattr(self, name, getattr(self, name)[keep])
        for name in _WINDOW_COLUMNS:
            setattr(self, name, getattr(self, name)[keep_windows])
        self.room = renumbered[self.room]
        self._index()

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Rooms by weight, whether live at the moment or not."""
        return np.minimum(np.searchsorted(self._cumulative_weight, rng.random(shape), side="right"), self.last)

    def of_authors(self, authors: np.ndarray, timestamp_ms: np.ndarray) -> np.ndarray:
        """The room in which each of `authors` (B, C; -1 for none) is live at `timestamp_ms` (B, 1); -1 for none."""
        found = np.full(authors.shape, -1, np.int64)
        for slot in range(_SLOTS):
            room = self._rooms_of_author[authors, slot]
            live = (room >= 0) & (self.start_ms[room] <= timestamp_ms) & (timestamp_ms < self.end_ms[room])
            found = np.where(live & (authors >= 0), room, found)
        return found

    def take_viewed(self, until_ms: int) -> np.ndarray:
        """Windows that had a viewer and ended by `until_ms`, each returned once, ordered by end and room."""
        windows = np.flatnonzero(self.viewed & (self.segment_end_ms <= until_ms))
        self.viewed[windows] = False
        return windows[np.lexsort((self.room[windows], self.segment_end_ms[windows]))]

    def _after_pause(self, moment_ms: np.ndarray) -> np.ndarray:
        """When authors who stopped at `moment_ms` (B,) start again: at least an hour later, rather in busy hours."""
        start = moment_ms + _HOUR_MS
        waiting = np.ones(len(start), bool)
        while waiting.any():
            start[waiting] += (3 * _HOUR_MS * self._rng.standard_exponential(int(waiting.sum()))).astype(np.int64)
            waiting &= self._rng.random(len(start)) > 0.4 * activity(start)
        return start

    def _products(self, room: np.ndarray, window: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        level_1, level_2, level_3 = self._catalogue.categories(product)
        return {
            "live_id": self.live_id[room],
            "author_id": self.author[room],
            "product_id": product,
            "category_1": level_1,
            "category_2": level_2,
            "category_3": level_3,
            "start_timestamp": self.start_ms[room] + WINDOW_MS * window,
            "price": self._catalogue.price[product],
        }

    def _index(self) -> None:
        rooms = len(self.live_id)
        self.last = rooms - 1
        self.offset = np.cumsum(self.windows) - self.windows
        total = self.weight.sum()
        self._cumulative_weight = np.cumsum(self.weight) / (total if rooms else 1.0)
        self._rooms_of_author = np.full((self._authors.count, _SLOTS), -1, np.int64)
        order = np.argsort(self.author, kind="stable")
        _, counts = np.unique(self.author, return_counts=True)
        slot = positions_within(counts)
        kept = slot < _SLOTS
        self._rooms_of_author[self.author[order][kept], slot[kept]] = order[kept]
