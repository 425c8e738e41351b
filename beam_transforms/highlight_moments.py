"""Highlight moments of a room: the windows that kept and moved its viewers most (KuaiLive-M3's public definition)."""

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import Columns, distinct_rows, take, to_batch, to_columns
from beam_transforms.schema import ROOM_MEMORY_MS, WINDOW_MS, EventKind
from beam_transforms.sharding import ShardBy

UNKNOWN = -1
"""Stands for the label of a room's last window."""

_IN_WINDOW = (EventKind.ENTER, EventKind.LIKE, EventKind.COMMENT)


def highlight_moments(
    events: Columns,
    retention_weight: float = 0.6,
    density_weight: float = 0.4,
    share: float = 0.3,
    period_ms: int = WINDOW_MS,
) -> Columns:
    """Scores the windows of each room, and flags the highlights among them.

        score = 0.6 retention' + 0.4 density',    ' min-max normalised in the room
        retention = viewers present at the window's start who are present at its end / viewers present at its start
        density = (likes + 2 comments) / viewers of the window

    A user is present at t from an ENTER before t until their next LEAVE, if that isn't before t; who leaves and comes
    back within a window is present at both its ends. Where both fall into one millisecond, the exit is the later one.
    An exit without an entry says nothing. Who never leaves stays until the room's last event's window has ended. The
    viewers of a window are those present at its start, and those who enter, like or comment in it.

    Rows are the windows from the room's first to its last event, less those without any viewer. A room that was silent
    for `ROOM_MEMORY_MS`, from the events of one window to those of the next, starts afresh: what came before and what
    came after are worked out as two rooms, each with its own first and last window. Then

    - a window that has no viewer at its start has no retention: NaN, which takes no part in the room's minimum and
      maximum, and is 0 once normalised;
    - where all windows of a room are equal in retention or density, that is 0 once normalised: it tells nothing;
    - a window is a highlight if no more than a share of 0.3 of the room's windows score as high as it, itself included.
      So there are at most that many, windows of equal score are highlights together or not at all, and a room of fewer
      than four windows, or of constant score, has none.

    Args:
        events: Columns of `schema.EVENT_COLUMNS` in any order, without duplicates; all events of the rooms in it.

    Returns:
        `live_id`, `window_end_ms` (int64, rows in this order), `retention`, `density`, `score` (float64), `highlight`
        (int64, 0 or 1) and `next_highlight` (int64): that of the room's next row, `UNKNOWN` for the last one.
    """
    window = events["timestamp_ms"] // period_ms
    rooms, room = _rooms(events, window)
    first = np.full(len(rooms), np.iinfo(np.int64).max)
    newest = np.full(len(rooms), np.iinfo(np.int64).min)
    np.minimum.at(first, room, window)
    np.maximum.at(newest, room, window)
    # Row of each room's first window. Each room has a row more, for who is still there after the last one.
    base = np.append(0, np.cumsum(newest - first + 2))
    row = base[room] + window - first[room]

    stays = _stays(events, room, row, base)
    at_start = _covered(stays["from_row"], stays["to_row"], base[-1])
    retained = _covered(stays["from_row"], stays["to_row"] - 1, base[-1])
    viewers = at_start + _others(events, room, row, stays, base[-1])
    reactions = np.bincount(row[events["kind"] == EventKind.LIKE], minlength=base[-1])
    reactions = reactions + 2 * np.bincount(row[events["kind"] == EventKind.COMMENT], minlength=base[-1])

    of_room = np.repeat(np.arange(len(rooms)), np.diff(base))
    viewers[base[1:] - 1] = 0
    seen = np.flatnonzero(viewers > 0)
    of_room = of_room[seen]
    retention = np.where(at_start[seen] > 0, retained[seen] / np.maximum(at_start[seen], 1), np.nan)
    density = reactions[seen] / viewers[seen]
    score = retention_weight * _normalised(retention, of_room) + density_weight * _normalised(density, of_room)
    highlight = _top(score, of_room, share)
    following = np.append(highlight[1:], UNKNOWN)[: len(seen)]
    following[np.append(of_room[1:] != of_room[:-1], True)[: len(seen)]] = UNKNOWN
    return {
        "live_id": rooms[of_room],
        "window_end_ms": (first[of_room] + seen - base[of_room] + 1) * period_ms,
        "retention": retention,
        "density": density,
        "score": score,
        "highlight": highlight,
        "next_highlight": following,
    }


class HighlightMoments(beam.PTransform):
    """Batches of events -> batches of scored windows, see `highlight_moments` for the definition and the columns.

    Bounded input only: a window's score depends on the least and the greatest one of the whole room. A window is
    emitted once, whatever the order of the events.

    Args:
        retention_weight, density_weight: Weights of the two parts of the score.
        share: At most this share of a room's windows are highlights.
        period_ms: Length of a window in milliseconds.
        deduplicate: Whether events that are equal in every column are one event.
        shards: Number of groups of rooms that can be worked on in parallel.

    Raises:
        ValueError: If a weight is negative, the share isn't inside (0, 1), or the period isn't positive.
    """

    def __init__(
        self,
        retention_weight: float = 0.6,
        density_weight: float = 0.4,
        share: float = 0.3,
        period_ms: int = WINDOW_MS,
        deduplicate: bool = True,
        shards: int = 16,
    ) -> None:
        super().__init__()
        if retention_weight < 0 or density_weight < 0 or not 0 < share < 1 or period_ms <= 0:
            raise ValueError(
                "weights must be >= 0, share inside (0, 1) and period_ms positive, got "
                f"{retention_weight}, {density_weight}, {share} and {period_ms}"
            )
        self._options = (retention_weight, density_weight, share, period_ms)
        self._deduplicate, self._shards = deduplicate, shards

    def expand(self, events: beam.PCollection) -> beam.PCollection:
        return (
            events
            | ShardBy("live_id", self._shards)
            | beam.GroupByKey()
            | beam.MapTuple(self._moments).with_output_types(pa.RecordBatch)
        )

    def _moments(self, _shard: int, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        events = to_columns(list(batches))
        if self._deduplicate:
            events = take(events, distinct_rows({**events, "value": events["value"].view(np.int32)}))
        return to_batch(highlight_moments(events, *self._options))


def _rooms(events: Columns, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rooms, one for each stretch between silences, ordered by id and time: their ids, and the room of each event."""
    order = np.lexsort([events["timestamp_ms"], events["live_id"]])
    ids, step, window = events["live_id"][order], events["timestamp_ms"][order] // WINDOW_MS, window[order]
    fresh = np.ones(len(order), dtype=bool)
    # As `statistics` tells a silence: between windows, in steps of 30 seconds.
    silent = (np.diff(step) > ROOM_MEMORY_MS // WINDOW_MS) & (np.diff(window) > 0)
    fresh[1:] = silent | (ids[1:] != ids[:-1])
    room = np.empty(len(order), dtype=np.int64)
    room[order] = np.cumsum(fresh) - 1
    return ids[fresh], room


def _stays(events: Columns, room: np.ndarray, row: np.ndarray, base: np.ndarray) -> Columns:
    """Stretches of windows at whose starts a user is present: `room`, `user_id`, `from_row` to `to_row`.

    In the order of (room, user, row), without touching each other. `to_row` is the row behind the room's last window
    for who stays to its end.
    """
    moves = np.flatnonzero((events["kind"] == EventKind.ENTER) | (events["kind"] == EventKind.LEAVE))
    kind, user = events["kind"][moves], events["user_id"][moves]
    order = np.lexsort([kind, events["timestamp_ms"][moves], user, room[moves]])
    moves, enters, user = moves[order], kind[order] == EventKind.ENTER, user[order]
    new = _changes(room[moves], user)
    # Only changes count: an ENTER of who isn't there, and the LEAVE of who is.
    begins = enters & (new | ~np.append(False, enters[:-1])[: len(enters)])
    ends = ~enters & ~new & np.append(False, enters[:-1])[: len(enters)]
    last = np.append(new[1:], True)[: len(new)]
    open_end = enters & last
    from_row = row[moves[begins]] + 1
    finish = np.flatnonzero(ends | open_end)
    to_row = np.where(open_end[finish], base[room[moves[finish]] + 1] - 1, row[moves[finish]])
    there = {"room": room[moves[begins]], "user_id": user[begins], "from_row": from_row, "to_row": to_row}
    # Who came back within the window of the exit never missed the start of one.
    fresh = _changes(there["room"], there["user_id"])
    fresh[1:] |= from_row[1:] > to_row[:-1] + 1
    starts = np.flatnonzero(fresh)
    merged = take(there, starts)
    merged["to_row"] = to_row[np.append(starts[1:], len(fresh)).astype(np.int64)[: len(starts)] - 1]
    return take(merged, np.flatnonzero(merged["to_row"] >= merged["from_row"]))


def _changes(room: np.ndarray, user: np.ndarray) -> np.ndarray:
    changes = np.ones(len(room), dtype=bool)
    changes[1:] = (room[1:] != room[:-1]) | (user[1:] != user[:-1])
    return changes


def _covered(from_row: np.ndarray, to_row: np.ndarray, rows: int) -> np.ndarray:
    """How many of the stretches [from_row, to_row] each row is in; empty ones are in none."""
    real = to_row >= from_row
    change = np.bincount(from_row[real], minlength=rows + 2) - np.bincount(to_row[real] + 1, minlength=rows + 2)
    return np.cumsum(change)[:rows]


def _others(events: Columns, room: np.ndarray, row: np.ndarray, stays: Columns, rows: int) -> np.ndarray:
    """Users who enter, like or comment in a window at whose start they aren't present, (rows,)."""
    chosen = np.flatnonzero(np.isin(events["kind"], _IN_WINDOW))
    active = {"room": room[chosen], "user_id": events["user_id"][chosen], "row": row[chosen]}
    active = take(active, distinct_rows(active))
    # The last stay of this user in this room that began by this row, found in one order of both.
    stay = np.append(np.zeros(len(active["row"]), bool), np.ones(len(stays["room"]), bool))
    columns = [
        np.append(active[a], stays[b]) for a, b in (("room", "room"), ("user_id", "user_id"), ("row", "from_row"))
    ]
    order = np.lexsort([~stay, *reversed(columns)])
    stay, (in_room, user, at) = stay[order], [values[order] for values in columns]
    until = np.append(np.zeros(len(active["row"]), np.int64), stays["to_row"])[order]
    before = np.maximum.accumulate(np.where(stay, np.arange(len(order)), 0)) if len(order) else order
    present = stay[before] & (in_room[before] == in_room) & (user[before] == user) & (until[before] >= at)
    return np.bincount(at[~stay & ~present], minlength=rows)


def _normalised(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Min-max normalised in each group; 0 where all are equal, and for NaN."""
    count = int(group[-1]) + 1 if len(group) else 0
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.fmin.at(low, group, values)
    np.fmax.at(high, group, values)
    known = ~np.isnan(values) & (high > low)[group]
    spread = np.where(known, high[group] - low[group], 1.0)
    return np.where(known, values - low[group], 0.0) / spread


def _top(score: np.ndarray, group: np.ndarray, share: float) -> np.ndarray:
    """1 where at most `share` of the group score as high, int64."""
    order = np.lexsort([-score, group])
    ordered, of = score[order], group[order]
    first = np.append(True, of[1:] != of[:-1])[: len(of)]
    begin = np.maximum.accumulate(np.where(first, np.arange(len(of)), 0)) if len(of) else of
    level = np.append(first[1:] | (ordered[1:] != ordered[:-1]), True)[: len(of)]  # the last one of its score
    places = np.where(level, np.arange(len(of)), len(of))
    last_equal = np.minimum.accumulate(places[::-1])[::-1] if len(of) else of
    size = np.bincount(group)[of] if len(of) else of
    highlight = np.empty(len(of), dtype=np.int64)
    highlight[order] = last_equal - begin + 1 <= share * size + 1e-9
    return highlight
