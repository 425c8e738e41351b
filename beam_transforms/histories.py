"""What happened under a key before a time: counts, and the authors that a user entered last.

Counts are kept as rows of *changes* that add up, the *history windows*: one row for each key and 30-second window, from
any number of workers. Columns: those of `history.key`; `timestamp_ms`, the window's last millisecond; `amounts`
(rows, kinds + sums), int64: of each kind the number of events, then the sums in fixed point; and `last_ms`
(rows, kinds), the last event of each kind, `NEVER_MS` for none.
"""

from collections.abc import Iterable

import numpy as np

from beam_transforms.columnar import Columns, Groups, Timeline, concatenate, distinct_rows, empty, ranges, take
from beam_transforms.fixed_point import from_fixed, to_fixed
from beam_transforms.schema import MEMORY_MS, PADDING_ID, WINDOW_MS, EventKind, HistoryCounts
from beam_transforms.stored_history import NEVER_MS


def empty_history(history: HistoryCounts) -> Columns:
    """History windows without a row."""
    kinds, sums = len(history.kinds), len(history.sums)
    wide = {"amounts": ("int64", (kinds + sums,)), "last_ms": ("int64", (kinds,))}
    return empty({**dict.fromkeys((*history.key, "timestamp_ms"), "int64"), **wide})


def history_windows(history: HistoryCounts, events: Columns) -> Columns:
    """What events add to the windows of their keys, ordered by key and window; one row each.

    Args:
        events: Columns of `schema.EVENT_COLUMNS`, any order. Events without a user give nothing to a user's history.
    """
    matters = np.isin(events["kind"], [*history.kinds, *history.sums])
    matters &= np.all([events[name] >= 0 for name in history.key], axis=0)
    events = take(events, np.flatnonzero(matters))
    keys = [events[name] for name in history.key]
    groups = Groups([*keys, events["timestamp_ms"] // WINDOW_MS])
    count = groups.count
    windows = {name: key[groups.first] for name, key in zip(history.key, keys, strict=True)}
    windows["timestamp_ms"] = (events["timestamp_ms"][groups.first] // WINDOW_MS + 1) * WINDOW_MS - 1
    amounts = np.zeros((count, len(history.kinds) + len(history.sums)), dtype=np.int64)
    last_ms = np.full((count, len(history.kinds)), NEVER_MS)
    for column, kind in enumerate(history.kinds):
        rows = np.flatnonzero(events["kind"] == kind)
        amounts[:, column] = np.bincount(groups.group[rows], minlength=count)
        np.maximum.at(last_ms[:, column], groups.group[rows], events["timestamp_ms"][rows])
    for column, kind in enumerate(history.sums, start=len(history.kinds)):
        rows = np.flatnonzero(events["kind"] == kind)
        np.add.at(amounts[:, column], groups.group[rows], to_fixed(events["value"][rows]))
    return {**windows, "amounts": amounts, "last_ms": last_ms}


def fold_history(history: HistoryCounts, state: Columns, windows: Columns, until_ms: int) -> Columns:
    """History windows that still matter at `until_ms`: those beyond the longest lookback become one row a key."""
    rows = concatenate([state, take(windows, np.flatnonzero(windows["timestamp_ms"] < until_ms))])
    keys = take(rows, distinct_rows(rows, history.key))
    timeline = _timeline(history, rows, keys)
    start, end = timeline.span(np.full(len(keys["timestamp_ms"]), until_ms))
    rows = take(rows, timeline.order[ranges(start, end)])
    old = rows["timestamp_ms"] < until_ms - longest_lookback_ms([history])
    past, recent = take(rows, np.flatnonzero(old)), take(rows, np.flatnonzero(~old))
    base = _merged(history, past, Groups([past[name] for name in history.key]))
    return concatenate([base, recent])


def history_record(history: HistoryCounts, windows: Columns, queries: Columns) -> Columns:
    """One family of counts as of each query, as it is stored: what depends on the events, not on the time since.

    Args:
        windows: History windows of the keys asked for, in any order and number of rows.
        queries: The columns of `history.key` and `as_of_ms`, each of shape (B,); windows that end later aren't seen.

    Returns:
        `history.feature_name`, float32 of shape (B, len(history.columns)) with 0 in place of ages, and
        `history.last_ms_name`, int64 of shape (B, kinds + 1), see `RankingSchema.stored`.
    """
    now = queries["as_of_ms"]
    counts = np.zeros((len(now), len(history.columns)), dtype=np.float32)
    last_ms = np.full((len(now), len(history.kinds) + 1), NEVER_MS)
    if not len(windows["timestamp_ms"]):
        return {history.feature_name: counts, history.last_ms_name: last_ms}
    windows = _merged(history, windows, Groups([windows[name] for name in (*history.key, "timestamp_ms")]))
    timeline = _timeline(history, windows, queries)
    windows = take(windows, timeline.order)
    start, end = timeline.span(now)
    last = np.maximum(end - 1, 0)
    begins = [start, *(np.maximum(timeline.before(now - seconds * 1000), start) for seconds in history.lookbacks_s)]
    rows = np.arange(len(windows["timestamp_ms"]))
    column = 0
    for place in range(len(history.kinds)):
        total = _totals(windows["amounts"][:, place])
        for begin in begins:
            counts[:, column] = total[end] - total[begin]
            column += 1
        column += 1  # the age
        newest = np.maximum.accumulate(np.where(windows["amounts"][:, place] > 0, rows, -1))[last]
        seen = (end > start) & (newest >= start)
        last_ms[:, place] = np.where(seen, windows["last_ms"][newest, place], NEVER_MS)
    for place in range(len(history.kinds), len(history.kinds) + len(history.sums)):
        total = _totals(windows["amounts"][:, place])
        counts[:, column] = from_fixed(total[end] - total[start])
        column += 1
    last_ms[:, -1] = np.where(end > start, windows["timestamp_ms"][last], NEVER_MS)
    return {history.feature_name: counts, history.last_ms_name: last_ms}


def longest_lookback_ms(histories: Iterable[HistoryCounts]) -> int:
    return max((seconds for history in histories for seconds in history.lookbacks_s), default=0) * 1000


def changed_keys(history: HistoryCounts, windows: Columns, since_ms: int, until_ms: int) -> Columns:
    """Keys whose record as of `until_ms` is another than as of `since_ms`, in the columns of `history.key`.

    Those with a window that ended in between, and those with one that left a lookback in between.
    """
    changed = np.zeros(len(windows["timestamp_ms"]), dtype=bool)
    for seconds in (0, *history.lookbacks_s):
        ago = windows["timestamp_ms"] + seconds * 1000
        changed |= (ago >= since_ms) & (ago < until_ms)
    keys = {name: windows[name][changed] for name in history.key}
    return take(keys, distinct_rows(keys))


def empty_entries() -> Columns:
    """Entries into rooms, in the order of users and times, without a row."""
    return empty(dict.fromkeys(("user_id", "timestamp_ms", "author_id", "live_id"), "int64"))


def entries(events: Columns) -> Columns:
    """The entries among events, columns as in `empty_entries`."""
    chosen = np.flatnonzero((events["kind"] == EventKind.ENTER) & (events["user_id"] >= 0))
    return {name: events[name][chosen] for name in empty_entries()}


def fold_entries(state: Columns, rows: Columns, length: int, until_ms: int) -> Columns:
    """The last `length` entries of each user before `until_ms`; those of users silent for `MEMORY_MS` go."""
    rows = concatenate([state, take(rows, np.flatnonzero(rows["timestamp_ms"] < until_ms))])
    rows = _ordered(rows)
    users = np.unique(rows["user_id"])
    timeline = Timeline([rows["user_id"]], rows["timestamp_ms"], [users], MEMORY_MS)
    start, end = timeline.span(np.full(len(users), until_ms))
    return take(rows, timeline.order[ranges(np.maximum(start, end - length), end)])


def entered_authors(state: Columns, rows: Columns, queries: Columns, length: int) -> np.ndarray:
    """Authors of the rooms that the user entered before each query, oldest first: int64 of shape (B, length)."""
    return entered_record(state, rows, queries, length)["entered_authors"]


def entered_record(state: Columns, rows: Columns, queries: Columns, length: int) -> Columns:
    """What a user entered before each query, as it is stored.

    Args:
        state: What `fold_entries` kept of earlier rows.
        rows: Entries, see `entries`.
        queries: `user_id` and `as_of_ms`, each of shape (B,).

    Returns:
        `entered_authors`, the rooms' authors, oldest first, `PADDING_ID` in front, int64 of shape (B, length), and
        `entered_last_ms`, the time of the newest of these entries, `NEVER_MS` for none, int64 of shape (B,).
    """
    rows = _ordered(concatenate([state, rows]))
    timeline = Timeline([rows["user_id"]], rows["timestamp_ms"], [queries["user_id"]], MEMORY_MS)
    start, end = timeline.span(queries["as_of_ms"])
    places = end[:, None] - np.arange(length, 0, -1)
    known = places >= start[:, None]
    if not len(rows["user_id"]):
        never = np.full(len(end), NEVER_MS, dtype=np.int64)
        return {"entered_authors": np.full(places.shape, PADDING_ID, dtype=np.int64), "entered_last_ms": never}
    authors = rows["author_id"][timeline.order]
    newest = timeline.timestamps[np.maximum(end - 1, 0)]
    return {
        "entered_authors": np.where(known, authors[np.where(known, places, 0)], PADDING_ID),
        "entered_last_ms": np.where(end > start, newest, NEVER_MS),
    }


def _ordered(rows: Columns) -> Columns:
    """By time, ties by content, so that the order of arrival is forgotten."""
    return take(rows, np.lexsort([rows["live_id"], rows["author_id"], rows["timestamp_ms"]]))


def _timeline(history: HistoryCounts, windows: Columns, queries: Columns) -> Timeline:
    keys = [windows[name] for name in history.key]
    return Timeline(keys, windows["timestamp_ms"], [queries[name] for name in history.key], history.memory_ms)


def _merged(history: HistoryCounts, windows: Columns, groups: Groups) -> Columns:
    merged = {name: windows[name][groups.first] for name in history.key}
    for name, reduce in (("timestamp_ms", np.maximum), ("amounts", np.add), ("last_ms", np.maximum)):
        merged[name] = groups.reduce(reduce, windows[name])
    return merged


def _totals(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values)])
