"""30-second windows of a room's metrics, and the sequence of the last windows as of a time (LiveForesighter, 2.2).

A window of a room is a row of *changes* that add up: rows of the same room and window, from different workers or from
events that came late, are one window after `merge_windows`. Until then a busy room may be spread over any number of
workers. Columns of such rows, the *room windows*:

- `live_id`, `author_id`, and `timestamp_ms`, the window's last millisecond;
- `first_ms`, `newest_ms`: times of the first and the newest event in it;
- `started`, `ended`: whether the room opened or ended in it;
- `statistics` (rows, N), int64: of each metric what the window adds to it, sums in fixed point, users present as
  entries minus exits.
"""

from collections.abc import Sequence

import numpy as np

from beam_transforms.columnar import Columns, Groups, Timeline, concatenate, empty, ranges, take
from beam_transforms.fixed_point import from_fixed, to_fixed
from beam_transforms.schema import ROOM_MEMORY_MS, WINDOW_MS, Aggregate, EventKind, Metric

_DISTINCT = (Aggregate.USERS, Aggregate.NEW_USERS)


def empty_windows(metrics: Sequence[Metric]) -> Columns:
    """Room windows without a row."""
    integers = dict.fromkeys(("live_id", "author_id", "timestamp_ms", "first_ms", "newest_ms"), "int64")
    return empty({**integers, "started": "bool", "ended": "bool", "statistics": ("int64", (len(metrics),))})


def empty_heard() -> Columns:
    """Who was heard in which room before: what `room_windows` needs to tell a new user, without a row."""
    return empty(dict.fromkeys(("live_id", "user_id", "kind", "timestamp_ms"), "int64"))


def room_windows(
    heard: Columns,
    events: Columns,
    metrics: Sequence[Metric],
    new: np.ndarray | None = None,
    period_ms: int = WINDOW_MS,
) -> Columns:
    """What events add to the windows of their rooms.

    All events of a (room, user) must be in one call, or in `heard`; those of a room needn't.

    Args:
        heard: Who was heard before the first of `events`, see `fold_heard`.
        events: Columns of `schema.EVENT_COLUMNS` in any order.
        metrics: The N columns of the statistics.
        new: Which events haven't been counted yet, bool of shape (events,); all by default. The rows say what these
            change, beside the others: one that came late may be a user's first, so that another is first no longer.
        period_ms: Length of a window.

    Returns:
        Room windows, ordered by room and window; one row each.
    """
    chosen = np.ones(len(events["kind"]), dtype=bool) if new is None else new
    groups = Groups([events["live_id"], events["timestamp_ms"] // period_ms])
    count = groups.count
    statistics = np.zeros((count, len(metrics)), dtype=np.int64)
    counts = _counts(groups, events["kind"], chosen)
    for column, metric in enumerate(metrics):
        if metric.aggregate in _DISTINCT:
            statistics[:, column] = _distinct(heard, events, metric, groups.group, count)
            if not chosen.all():
                counted = take(events, np.flatnonzero(~chosen))
                statistics[:, column] -= _distinct(heard, counted, metric, groups.group[~chosen], count)
            continue
        if metric.aggregate is Aggregate.SUM:
            rows = np.flatnonzero(chosen & (events["kind"] == metric.kind))
            total = np.zeros(count, dtype=np.int64)
            np.add.at(total, groups.group[rows], to_fixed(events["value"][rows]))
            statistics[:, column] = total
            continue
        statistics[:, column] = counts[:, metric.kind]
        if metric.aggregate is Aggregate.PRESENT:
            statistics[:, column] -= counts[:, EventKind.LEAVE]
    windows = {
        "live_id": events["live_id"][groups.first],
        "author_id": groups.reduce(np.maximum, events["author_id"]),
        "timestamp_ms": (events["timestamp_ms"][groups.first] // period_ms + 1) * period_ms - 1,
        "first_ms": groups.reduce(np.minimum, events["timestamp_ms"]),
        "newest_ms": groups.reduce(np.maximum, events["timestamp_ms"]),
        "started": _any_of(groups, events["kind"], EventKind.ROOM_START),
        "ended": _any_of(groups, events["kind"], EventKind.ROOM_END),
        "statistics": statistics,
    }
    if chosen.all():
        return windows
    return take(windows, np.flatnonzero(groups.reduce(np.logical_or, chosen) | statistics.any(axis=1)))


def fold_heard(heard: Columns, events: Columns, metrics: Sequence[Metric], until_ms: int) -> Columns:
    """Who is remembered at `until_ms` as heard in a room: of each (room, user) and kind the newest event."""
    kinds = [int(metric.kind) for metric in metrics if metric.aggregate is Aggregate.NEW_USERS]
    chosen = np.isin(events["kind"], kinds) & (events["timestamp_ms"] < until_ms)
    rows = concatenate([heard, {name: events[name][chosen].astype(np.int64) for name in heard}])
    rows = take(rows, np.flatnonzero(until_ms - rows["timestamp_ms"] <= ROOM_MEMORY_MS))
    groups = Groups([rows[name] for name in ("live_id", "user_id", "kind")])
    return take(rows, groups.first) | {"timestamp_ms": groups.reduce(np.maximum, rows["timestamp_ms"])}


def merge_windows(windows: Columns) -> Columns:
    """Room windows, one row for each room and window, in this order."""
    groups = Groups([windows["live_id"], windows["timestamp_ms"]])
    return _merged(windows, groups)


def fold_windows(
    state: Columns, windows: Columns, metrics: Sequence[Metric], length: int, until_ms: int, period_ms: int = WINDOW_MS
) -> Columns:
    """Room windows that still matter at `until_ms`.

    Of each room the last `length` windows stay, and in front of them one row that stands for all before: when the room
    opened and how many are present. Rooms that were silent for `ROOM_MEMORY_MS` go.
    """
    rows = merge_windows(concatenate([state, take(windows, np.flatnonzero(windows["timestamp_ms"] < until_ms))]))
    rooms = np.unique(rows["live_id"])
    # Windows are forgotten at their ends alone: the next one may have begun before `until_ms`.
    start, end = _remembered(rows, _timeline(rows, rooms), np.full(len(rooms), until_ms // period_ms * period_ms))
    rows = take(rows, ranges(start, end))
    old = rows["timestamp_ms"] < until_ms - length * period_ms
    past = take(rows, np.flatnonzero(old))
    base = _merged(past, Groups([past["live_id"]]))
    base["statistics"] = base["statistics"] * [metric.aggregate is Aggregate.PRESENT for metric in metrics]
    return concatenate([base, take(rows, np.flatnonzero(~old))])


def statistic_sequences(
    windows: Columns, queries: Columns, metrics: Sequence[Metric], length: int, period_ms: int = WINDOW_MS
) -> Columns:
    """The last `length` windows of a room that had ended as of each query, oldest first.

    Args:
        windows: Room windows of the rooms asked for, in any order and number of rows.
        queries: `live_id` and `as_of_ms`, each of shape (B,).

    Returns:
        `statistic_sequence`, float32 of shape (B, T, N); `statistic_mask`, float32 of shape (B, T): 0 before the room's
        first window (padding stands in front), where the sequence is 0 too; and `opened_ms`, int64 of shape (B,): the
        time of the room's first event, -1 for a room of which nothing is known.
    """
    windows = merge_windows(windows)
    # Many impressions ask for the same room and window: each is looked up once.
    asked = Groups([queries["live_id"], queries["as_of_ms"] // period_ms])
    rooms, end_ms = queries["live_id"][asked.first], queries["as_of_ms"][asked.first] // period_ms * period_ms
    shape = (asked.count, length)
    sequence, mask = np.zeros((*shape, len(metrics)), np.float32), np.zeros(shape, np.float32)
    opened = np.full(asked.count, -1)
    if len(windows["live_id"]) and asked.count:
        timeline = _timeline(windows, rooms)
        start, end = _remembered(windows, timeline, end_ms)
        opened = np.where(end > start, windows["first_ms"][np.minimum(start, len(windows["live_id"]) - 1)], -1)
        step_end = end_ms[:, None] - np.arange(length - 1, -1, -1) * period_ms
        row = timeline.before(step_end) - 1
        started = (opened >= 0)[:, None] & (step_end > opened[:, None])
        inside = started & (row >= start[:, None])
        row = np.maximum(row, 0)
        exact = inside & (windows["timestamp_ms"][row] == step_end - 1)
        values = np.where(exact[..., None], windows["statistics"][row], 0).astype(np.float64)
        for column, metric in enumerate(metrics):
            if metric.aggregate is Aggregate.PRESENT:
                total = np.concatenate([[0], np.cumsum(windows["statistics"][:, column])])
                values[..., column] = np.where(inside, np.maximum(total[row + 1] - total[start][:, None], 0), 0)
            elif metric.aggregate is Aggregate.SUM:
                values[..., column] = from_fixed(values[..., column])
        sequence, mask = values.astype(np.float32), started.astype(np.float32)
    group = asked.group
    return {"statistic_sequence": sequence[group], "statistic_mask": mask[group], "opened_ms": opened[group]}


def live_rooms(windows: Columns, as_of_ms: int, silent_ms: int = 600_000) -> Columns:
    """`live_id`, `author_id` and `as_of_ms` of the rooms that are live.

    A room is live if it has opened and not ended. One without ROOM_START (no metadata) is live if anything happened in
    it within the last ten minutes.
    """
    windows = merge_windows(take(windows, np.flatnonzero(windows["timestamp_ms"] < as_of_ms)))
    rooms = np.unique(windows["live_id"])
    start, end = _remembered(windows, _timeline(windows, rooms), np.full(len(rooms), as_of_ms))
    known = np.flatnonzero(end > start)
    start, end = start[known], end[known]
    started, ended = (np.concatenate([[0], np.cumsum(windows[name])]) for name in ("started", "ended"))
    heard = windows["newest_ms"][end - 1] >= as_of_ms - silent_ms
    live = (ended[end] == ended[start]) & ((started[end] > started[start]) | heard)
    last = end[live] - 1
    columns = take({name: windows[name] for name in ("live_id", "author_id")}, last)
    return columns | {"as_of_ms": np.full(len(last), as_of_ms)}


def window_statistics(events: Columns, metrics: Sequence[Metric], period_ms: int = WINDOW_MS) -> Columns:
    """Counts the events of each room and window; windows are aligned to the epoch and hold [begin, end).

    Windows without any event have no row: their counts are zero and the users present are those of the row before.

    Args:
        events: Columns of `schema.EVENT_COLUMNS` in any order; all events of the rooms in it.

    Returns:
        What `finished_windows` returns.
    """
    return finished_windows(room_windows(empty_heard(), events, metrics, period_ms=period_ms), metrics)


def finished_windows(windows: Columns, metrics: Sequence[Metric]) -> Columns:
    """Room windows as people want them.

    Who is present is counted since the room was last silent for `ROOM_MEMORY_MS` from one row's events to the next's;
    a silence inside a window isn't seen.

    Returns:
        `live_id` and `window_end_ms` (int64, W rows in this order) and `statistics` (float32, shape (W, N)).
    """
    windows = merge_windows(windows)
    statistics = windows["statistics"].astype(np.float64)
    start = _since_silence(windows)
    for column, metric in enumerate(metrics):
        if metric.aggregate is Aggregate.PRESENT:
            total = np.concatenate([[0], np.cumsum(windows["statistics"][:, column])])
            statistics[:, column] = np.maximum(total[1:] - total[start], 0)
        elif metric.aggregate is Aggregate.SUM:
            statistics[:, column] = from_fixed(statistics[:, column])
    return {
        "live_id": windows["live_id"],
        "window_end_ms": windows["timestamp_ms"] + 1,
        "statistics": statistics.astype(np.float32),
    }


def _timeline(windows: Columns, rooms: np.ndarray) -> Timeline:
    """Merged windows as a timeline: positions in it are row numbers."""
    return Timeline([windows["live_id"]], windows["timestamp_ms"], [rooms])


def _since_silence(windows: Columns) -> np.ndarray:
    """For each row of merged windows the first one of its room since it was last silent for `ROOM_MEMORY_MS`.

    A room is silent from the newest event of a window to the first one of the next, whatever the windows' length. Both
    times count as the 30 seconds that they are in.
    """
    silent = windows["first_ms"][1:] // WINDOW_MS - windows["newest_ms"][:-1] // WINDOW_MS > ROOM_MEMORY_MS // WINDOW_MS
    fresh = np.ones(len(windows["live_id"]), dtype=bool)
    fresh[1:] = silent | (windows["live_id"][1:] != windows["live_id"][:-1])
    return np.maximum.accumulate(np.where(fresh, np.arange(len(fresh)), 0))


def _remembered(windows: Columns, timeline: Timeline, as_of_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query the rows [start, end) of its room's merged windows before `as_of_ms`, since its last silence."""
    end = timeline.before(as_of_ms)
    if not len(windows["live_id"]):
        return timeline.start, end
    last = np.maximum(end - 1, 0)
    silent = as_of_ms // WINDOW_MS - windows["newest_ms"][last] // WINDOW_MS > ROOM_MEMORY_MS // WINDOW_MS
    return np.where((end <= timeline.start) | silent, end, _since_silence(windows)[last]), end


def _merged(windows: Columns, groups: Groups) -> Columns:
    merged = {"live_id": windows["live_id"][groups.first], "first_ms": groups.reduce(np.minimum, windows["first_ms"])}
    for name in ("author_id", "timestamp_ms", "newest_ms"):
        merged[name] = groups.reduce(np.maximum, windows[name])
    for name in ("started", "ended"):
        merged[name] = groups.reduce(np.logical_or, windows[name])
    merged["statistics"] = groups.reduce(np.add, windows["statistics"])
    return {name: merged[name] for name in windows}


def _counts(groups: Groups, kinds: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How many of the chosen events of each kind there are in each group: (count, kinds) int64."""
    width = max(EventKind) + 1
    cells = groups.group * width
    cells += kinds
    cells = cells if chosen.all() else cells[chosen]
    return np.bincount(cells, minlength=groups.count * width).reshape(groups.count, width)


def _any_of(groups: Groups, kinds: np.ndarray, kind: EventKind) -> np.ndarray:
    found = np.zeros(groups.count, dtype=bool)
    found[groups.group[kinds == kind]] = True
    return found


def _distinct(heard: Columns, events: Columns, metric: Metric, place: np.ndarray, count: int) -> np.ndarray:
    """How many users there are in each row, or how many that weren't there before: (count,) int64."""
    chosen = np.flatnonzero(events["kind"] == metric.kind)
    users, rooms, times, place = (
        values[chosen] for values in (events["user_id"], events["live_id"], events["timestamp_ms"], place)
    )
    if metric.aggregate is Aggregate.USERS:
        return np.bincount(place[Groups([place, users]).first], minlength=count)
    before = np.flatnonzero(heard["kind"] == metric.kind)
    rooms, users = np.concatenate([heard["live_id"][before], rooms]), np.concatenate([heard["user_id"][before], users])
    times = np.concatenate([heard["timestamp_ms"][before], times])
    place = np.concatenate([np.full(len(before), -1), place])
    timeline = Timeline([rooms, users], times, [rooms, users], ROOM_MEMORY_MS)
    start, end = timeline.span(times)
    # Of a user's events at one millisecond, the one that stands first is the first.
    position = np.empty(len(times), dtype=np.int64)
    position[timeline.order] = np.arange(len(times))
    return np.bincount(place[(start == end) & (position == end) & (place >= 0)], minlength=count)
