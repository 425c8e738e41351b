"""Run-length compressed sequences of semantic ids, L' and W of Foresight Prediction 3.1, by room or by author."""

import numpy as np

from beam_transforms._key_series import KeySeries, last_of_each
from beam_transforms._sequence_join import SequenceJoin
from beam_transforms.columnar import Columns, concatenate, empty, take
from beam_transforms.schema import MEMORY_MS, PADDING_ID, ROOM_MEMORY_MS

SEMANTIC_ID_COLUMNS = dict.fromkeys(("live_id", "author_id", "timestamp_ms", "semantic_id"), "int64")
"""Name -> dtype of the columns of a batch of semantic ids: one row a segment, `timestamp_ms` its last millisecond."""

KEYS = ("live_id", "author_id")


def empty_semantic_id_state(key: str) -> Columns:
    """The state of `fold_semantic_ids` before the first row."""
    return empty({key: "int64", "timestamp_ms": "int64", "semantic_id": "int64", "run_length": "int64"})


def semantic_id_features(
    state: Columns, rows: Columns, queries: Columns, key: str, length: int, memory_ms: int
) -> Columns:
    """The last `length` runs of a key's semantic ids as of each query: rows with a timestamp < `as_of_ms`.

    Rows of equal (live_id, timestamp_ms) are one segment, with the smallest of their semantic ids. Segments of an
    author's rooms that end in the same millisecond are in the order of their live_id. After a gap of more than
    `memory_ms` (between two segments' ends, or the last one's and the query) the sequence begins anew. A run length
    counts segments, however long they are.

    Args:
        state: What `fold_semantic_ids` returned for what is before the rows.
        rows: `SEMANTIC_ID_COLUMNS`, any order.
        queries: `key` and `as_of_ms`, each of shape (B,).
        key: "live_id" or "author_id".
        length: L, runs at most.

    Returns:
        `semantic_ids`, int64 (B, L), oldest first, `PADDING_ID` in front; `run_lengths`, int64 (B, L), 0 in front.
    """
    series = _series(state, rows, key, memory_ms)
    start, end = series.span(queries)
    opens = _opens_run(series)
    firsts = np.flatnonzero(opens)  # position of each run's first row
    before = np.append(0, np.cumsum(series.columns["run_length"]))  # segments before each position
    if not len(firsts):
        shape = (len(start), length)
        return {"semantic_ids": np.full(shape, PADDING_ID, np.int64), "run_lengths": np.zeros(shape, np.int64)}
    run = np.cumsum(opens) - 1
    # Many queries ask for the same key and time: each is looked up once.
    asked, inverse = _distinct(end, start)
    start, end = start[asked], end[asked]
    newest, oldest = run[np.maximum(end - 1, 0)], run[np.minimum(start, len(run) - 1)]
    runs = newest[:, None] + np.arange(1 - length, 1)
    known = (runs >= oldest[:, None]) & (end > start)[:, None]
    runs = np.where(known, runs, 0)
    lengths = np.diff(before[np.append(firsts, len(run))])[runs]
    lengths[:, -1] = before[end] - before[firsts[newest]]  # the newest run, as far as it has come
    semantic_ids = np.where(known, series.columns["semantic_id"][firsts][runs], PADDING_ID)
    return {"semantic_ids": semantic_ids[inverse], "run_lengths": np.where(known, lengths, 0)[inverse]}


def fold_semantic_ids(state: Columns, rows: Columns, key: str, length: int, memory_ms: int, until_ms: int) -> Columns:
    """The state at a later frontier: takes in the rows with a timestamp < `until_ms`.

    Returns:
        `key`, `timestamp_ms` (of the run's last segment), `semantic_id` and `run_length`, int64, a row a run: the last
        `length` of each key, in the order of (key, time). Keys silent for more than `memory_ms` have none.
    """
    series = _series(state, take(rows, np.flatnonzero(rows["timestamp_ms"] < until_ms)), key, memory_ms)
    firsts = np.flatnonzero(_opens_run(series))
    runs = take(series.columns, np.append(firsts[1:], len(series.starts)).astype(np.int64)[: len(firsts)] - 1)
    before = np.append(0, np.cumsum(series.columns["run_length"]))
    runs["run_length"] = np.diff(before[np.append(firsts, len(series.starts))])[: len(firsts)]
    kept = last_of_each(runs[key], series.starts[firsts], runs["timestamp_ms"], until_ms, memory_ms, length)
    return {name: runs[name][kept] for name in empty_semantic_id_state(key)}


class SidSequences(SequenceJoin):
    """Batches of semantic ids and of queries -> the queries with `semantic_ids` and `run_lengths`, (L,) each.

    Input is a dict of two PCollections of batches: `semantic_ids` (`SEMANTIC_ID_COLUMNS`) and `queries` (the key
    column, `as_of_ms`, and whatever else should be carried along). Only segments that ended before `as_of_ms` are seen:
    see `semantic_id_features`. Queries of a key without segments get padding.

    Bounded input: each query is answered once, whatever the order of the segments, and segments that came twice count
    once. On a stream, fold the same functions over time instead.

    Args:
        key: "live_id" for the room's sequence, "author_id" for the author's across rooms.
        length: L, runs at most.
        max_run: Longer runs count as this long; None leaves them as they are.
        memory_ms: Silence after which the sequence begins anew; by default 3 hours for rooms, 30 days for authors.
        shards: Number of groups of keys that can be worked on in parallel.

    Raises:
        ValueError: If the key is another one, or a number isn't positive.
    """

    def __init__(
        self,
        key: str,
        length: int = 100,
        max_run: int | None = None,
        memory_ms: int | None = None,
        shards: int = 16,
    ) -> None:
        if key not in KEYS:
            raise ValueError(f"key must be one of {KEYS}, got {key!r}")
        if length <= 0 or (max_run is not None and max_run <= 0) or (memory_ms is not None and memory_ms <= 0):
            raise ValueError(f"length, max_run and memory_ms must be positive, got {length}, {max_run} and {memory_ms}")
        super().__init__("semantic_ids", SEMANTIC_ID_COLUMNS, key, shards)
        self._length, self._max_run = length, max_run
        self._memory_ms = memory_ms or (ROOM_MEMORY_MS if key == "live_id" else MEMORY_MS)

    def features(self, rows: Columns, queries: Columns) -> Columns:
        state = empty_semantic_id_state(self._key)
        features = semantic_id_features(state, rows, queries, self._key, self._length, self._memory_ms)
        if self._max_run is not None:
            features["run_lengths"] = np.minimum(features["run_lengths"], self._max_run)
        return features


def _series(state: Columns, rows: Columns, key: str, memory_ms: int) -> KeySeries:
    """State and rows together. Runs of the state that end in the same millisecond stay in the state's order."""
    if key not in KEYS:
        raise ValueError(f"key must be one of {KEYS}, got {key!r}")
    settled, added = len(state[key]), len(rows[key])
    names = [key, "timestamp_ms", "semantic_id", "run_length"]
    columns = {**{name: rows[name] for name in names[:3]}, "run_length": np.ones(added, dtype=np.int64)}
    if key == "live_id":
        order, same = ["semantic_id"], []
    else:
        # The state doesn't say which rooms its runs are of, and needn't: no row of theirs is still to come.
        columns["place"] = rows["live_id"]
        order, same = ["place", "semantic_id"], ["place"]
    if settled:
        before = {name: state[name] for name in names}
        if "place" in columns:
            before["place"] = np.arange(settled)
        columns = concatenate([before, {name: columns[name] for name in before}])
    return KeySeries(columns, settled, key, order, same, memory_ms)


def _opens_run(series: KeySeries) -> np.ndarray:
    """Whether a row begins a run, bool (rows,)."""
    semantic_id = series.columns["semantic_id"]
    opens = series.starts.copy()
    opens[1:] |= semantic_id[1:] != semantic_id[:-1]
    return opens


def _distinct(end: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the first of each distinct (end, start), and for each query its place among them."""
    _, rows, inverse = np.unique(end * 2 + (start == end), return_index=True, return_inverse=True)
    return rows, inverse
