"""WindowStatistics: events -> the windows of their rooms."""

from collections.abc import Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import concatenate, empty, mix, split_by_shard, take
from beam_transforms.events import check_events
from beam_transforms.run_stage import RunStage
from beam_transforms.schema import EVENT_COLUMNS, WINDOW_MS, Aggregate, Metric
from beam_transforms.sharding import ShardBy, shard_numbers
from beam_transforms.stage import ALWAYS_MS, Clock, Input, Stage, Tables
from beam_transforms.statistics import (
    empty_heard,
    empty_windows,
    finished_windows,
    fold_heard,
    fold_windows,
    room_windows,
)


class WindowStatistics(beam.PTransform):
    """Batches of events -> batches of windows (`live_id`, `window_end_ms`, `statistics` of shape (N,)).

    Windows are aligned to the epoch and hold [begin, end). Windows without any event have no row: their counts are
    zero and the users present are those of the row before. A room that was silent for three hours, from the events of
    one row to those of the next, starts afresh. Equal events count once if `deduplicate` is set.

    The work on a busy room is spread: its windows go to different shards, and only one row a window goes on to the
    room's shard. With a metric of new users, of which a user's earlier events must be known, events are sharded by user
    instead, and one row a window of each user shard goes on.

    Bounded input: each window comes once, complete, whatever the order of the events.

    Unbounded input: each window comes once, when the watermark is the allowed lateness past its end. Events that come
    later than that are counted as `late_events` and left out.

    Args:
        metrics: The columns of the statistics, N of them.
        period_ms: Length of a window in milliseconds.
        deduplicate: Whether equal events are one event.
        shards: Number of groups of windows (or users), and of rooms, that can be worked on in parallel.
        lateness_ms: How much later than the watermark an event may come.

    Raises:
        ValueError: If there is no metric, or the period or the number of shards isn't positive, or the lateness is
            negative.
    """

    def __init__(
        self,
        metrics: tuple[Metric, ...],
        period_ms: int = WINDOW_MS,
        deduplicate: bool = True,
        shards: int = 16,
        lateness_ms: int = 0,
    ) -> None:
        super().__init__()
        if not metrics:
            raise ValueError("WindowStatistics needs at least one metric, got none")
        if period_ms <= 0 or lateness_ms < 0:
            raise ValueError(
                f"period_ms must be positive, got {period_ms}, and lateness_ms not negative: {lateness_ms}"
            )
        self._metrics, self._period_ms, self._deduplicate = metrics, period_ms, deduplicate
        self._shards, self._lateness_ms = shards, lateness_ms

    def expand(self, events: beam.PCollection) -> beam.PCollection:
        counted = _CountedWindows(self._metrics, self._period_ms, self._deduplicate)
        by_room = _RoomWindows(self._metrics, self._period_ms)
        if any(metric.aggregate is Aggregate.NEW_USERS for metric in self._metrics):
            sharded = {"events": events | "ShardUsers" >> ShardBy("user_id", self._shards)}
        else:
            by_window = beam.FlatMap(_by_window, self._period_ms, self._shards)
            sharded = {"events": events | "ShardWindows" >> by_window.with_output_types(tuple[int, pa.RecordBatch])}
        partial = sharded | "Count" >> RunStage(counted, ALWAYS_MS, lateness_ms=self._lateness_ms)
        changes = {"room_windows": partial["room_windows"] | "ShardRooms" >> ShardBy("live_id", self._shards)}
        run = RunStage(by_room, ALWAYS_MS, lateness_ms=self._lateness_ms, delay_ms=1)
        return (changes | "Add" >> run)["windows"] | beam.Map(lambda batch: batch).with_output_types(pa.RecordBatch)


def _by_window(batch: pa.RecordBatch, period_ms: int, shards: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    rooms, times = (batch.column(batch.schema.get_field_index(name)).to_numpy() for name in ("live_id", "timestamp_ms"))
    yield from split_by_shard(batch, shard_numbers(mix(rooms + mix(times // period_ms).view(np.int64)), shards))


class _CountedWindows(Stage):
    """What the events of some windows, or of some users, add to windows."""

    tables_out = ("room_windows", "late_events")

    def __init__(self, metrics: tuple[Metric, ...], period_ms: int, deduplicate: bool) -> None:
        self._metrics, self._period_ms = metrics, period_ms
        self._key = tuple(EVENT_COLUMNS) if deduplicate else ()
        self.lag_ms = period_ms  # the frontier may cut a window of another length than the stages' own

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"events": Input(empty(EVENT_COLUMNS), outside=True, key=self._key, check=check_events)}

    def empty(self) -> Tables:
        return {"heard": empty_heard()}

    def outputs(self, state: Tables, rows: Tables, before: Clock, now: Clock) -> Tables:
        events = take(rows["events"], rows["events"]["timestamp_ms"] < now.now_ms)
        return {
            "room_windows": room_windows(state["heard"], events, self._metrics, ~events["counted"], self._period_ms)
        }

    def fold(self, state: Tables, rows: Tables, until_ms: int) -> Tables:
        return {"heard": fold_heard(state["heard"], rows["events"], self._metrics, until_ms)}


class _RoomWindows(Stage):
    """Windows of some rooms, when they are final."""

    tables_out = ("windows",)

    def __init__(self, metrics: tuple[Metric, ...], period_ms: int) -> None:
        self._metrics, self._period_ms = metrics, period_ms
        self.lag_ms = period_ms

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"room_windows": Input(empty_windows(self._metrics))}

    def empty(self) -> Tables:
        return {"windows": empty_windows(self._metrics)}

    def outputs(self, state: Tables, rows: Tables, before: Clock, now: Clock) -> Tables:
        windows = finished_windows(concatenate([state["windows"], rows["room_windows"]]), self._metrics)
        end = windows["window_end_ms"]
        return {"windows": take(windows, (end > before.settled_ms) & (end <= now.settled_ms))}

    def fold(self, state: Tables, rows: Tables, until_ms: int) -> Tables:
        return {
            "windows": fold_windows(state["windows"], rows["room_windows"], self._metrics, 1, until_ms, self._period_ms)
        }
