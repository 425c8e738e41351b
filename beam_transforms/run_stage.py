"""RunStage: a stage on Beam, in one step over bounded input, and window by window over unbounded input."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import BytesCoder, StrUtf8Coder, TupleCoder, VarIntCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.timestamp import Timestamp

from beam_transforms.columnar import Columns, to_batch, to_columns
from beam_transforms.events import RecordBatchCoder
from beam_transforms.schema import WINDOW_MS
from beam_transforms.stage import ALWAYS_MS, Stage, Tables, advance, run_once, split_late
from beam_transforms.stage_state import decode_state, encode_state

_Row = tuple[int, tuple[str, pa.RecordBatch]]


class RunStage(beam.PTransform):
    """Tables of (shard, batch) that flow into a stage -> tables of batches that flow out, by name.

    Input is a dict of PCollections, one for each of `stage.inputs`; they are sharded by the same key.

    Bounded input: one step with everything.

    Unbounded input, in the global window: the rows of a shard wait in state. Each time the watermark passes a window's
    end, the stage takes a step there. A shard is left alone while nothing that it holds can lead to output. A row from
    outside is too late if it is further than the allowed lateness behind the last window's end at its batch's Beam
    timestamp, which sources set to the watermark then: what is too late doesn't depend on the sharding.

    Args:
        stage: What is done.
        settled_ms: Bounded input only: the time up to which everything is there; a number or a singleton PCollection.
        now_ms: Bounded input only: rows at or after it aren't looked at.
        lateness_ms: Unbounded input only: how much later than the watermark a row may come.
        delay_ms: Unbounded input only: this much after a window's end the step is taken, so that stages that feed this
            one have taken theirs.
    """

    def __init__(
        self,
        stage: Stage,
        settled_ms: beam.PCollection | int,
        now_ms: int = ALWAYS_MS,
        lateness_ms: int = 0,
        delay_ms: int = 0,
    ) -> None:
        super().__init__()
        self._stage, self._settled_ms, self._now_ms = stage, settled_ms, now_ms
        self._lateness_ms, self._delay_ms = lateness_ms, delay_ms

    @no_annotations
    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        named = [
            rows | f"Name_{name}" >> beam.Map(_named, name).with_output_types(_Row) for name, rows in inputs.items()
        ]
        rows = named | beam.Flatten()
        if not all(table.is_bounded for table in inputs.values()):
            return rows | beam.ParDo(_Windows(self._stage, self._lateness_ms, self._delay_ms)).with_outputs(
                *self._stage.tables_out
            )
        given = self._settled_ms
        settled = beam.pvalue.AsSingleton(given) if isinstance(given, beam.PCollection) else given
        once = beam.ParDo(_Once(self._stage, self._now_ms), settled)
        return rows | beam.GroupByKey() | once.with_outputs(*self._stage.tables_out)


def _named(keyed: tuple[int, pa.RecordBatch], name: str) -> _Row:
    return keyed[0], (name, keyed[1])


class _Once(beam.DoFn):
    def __init__(self, stage: Stage, now_ms: int) -> None:
        super().__init__()
        self._stage, self._now_ms = stage, now_ms

    @no_annotations
    def process(
        self, group: tuple[int, Iterable[tuple[str, pa.RecordBatch]]], settled_ms: int
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        outputs, counts = run_once(self._stage, _by_table(group[1]), settled_ms, self._now_ms)
        for name, count in counts.items():
            beam.metrics.Metrics.counter("stages", name).inc(count)
        yield from _tagged(outputs)


class _Windows(beam.DoFn):
    """The same, kept in Beam's state between windows."""

    ARRIVED = BagStateSpec("arrived", TupleCoder([VarIntCoder(), StrUtf8Coder(), RecordBatchCoder()]))
    STATE = ReadModifyWriteStateSpec("state", BytesCoder())
    NEXT_MS = ReadModifyWriteStateSpec("next_ms", VarIntCoder())  # of the timer that is set; 0 if none is
    WINDOW = TimerSpec("window", TimeDomain.WATERMARK)

    def __init__(self, stage: Stage, lateness_ms: int, delay_ms: int) -> None:
        super().__init__()
        self._stage, self._lateness_ms, self._delay_ms = stage, lateness_ms, delay_ms

    @no_annotations
    def process(
        self,
        row: _Row,
        arrived=beam.DoFn.StateParam(ARRIVED),
        next_ms=beam.DoFn.StateParam(NEXT_MS),
        window=beam.DoFn.TimerParam(WINDOW),
        timestamp=beam.DoFn.TimestampParam,
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        name, batch = row[1]
        time_ms = timestamp.micros // 1000
        if self._stage.inputs[name].outside:
            settled_ms = time_ms // WINDOW_MS * WINDOW_MS - self._lateness_ms
            rows, late = split_late(to_columns([batch]), settled_ms)
            yield from _tagged({f"late_{name}": late})
            if not len(rows["timestamp_ms"]):
                return
            batch = to_batch(rows) if len(late["timestamp_ms"]) else batch
        end_ms = (time_ms - self._delay_ms) // WINDOW_MS * WINDOW_MS + WINDOW_MS
        arrived.add((end_ms, name, batch))
        due_ms = next_ms.read()
        if not due_ms or end_ms < due_ms:
            self._set(window, next_ms, end_ms)

    @on_timer(WINDOW)
    @no_annotations
    def step(
        self,
        arrived=beam.DoFn.StateParam(ARRIVED),
        state=beam.DoFn.StateParam(STATE),
        next_ms=beam.DoFn.StateParam(NEXT_MS),
        window=beam.DoFn.TimerParam(WINDOW),
        timestamp=beam.DoFn.TimestampParam,
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        now_ms = next_ms.read()
        if now_ms is None or timestamp.micros // 1000 != now_ms + self._delay_ms:
            # A runner fired the timer twice, or one that was set anew since, and may have dropped the one that is due.
            if now_ms is not None:
                self._set(window, next_ms, now_ms)
            return
        before = decode_state(self._stage, state.read())
        if now_ms <= before.clock.now_ms:  # a row came late to a shard at rest; its next step is yet to come
            self._set(window, next_ms, before.clock.now_ms + WINDOW_MS)
            return
        rows = list(arrived.read())
        due = _by_table(row[1:] for row in rows if row[0] <= now_ms)
        after, outputs = advance(self._stage, before, due, now_ms, self._lateness_ms)
        state.write(encode_state(after))
        # Shards of the stage before may be steps ahead of others: what they gave then waits for its step.
        arrived.clear()
        ahead = [row for row in rows if row[0] > now_ms]
        for row in ahead:
            arrived.add(row)
        if self._stage.waits(after):
            self._set(window, next_ms, now_ms + WINDOW_MS)
        elif ahead:
            self._set(window, next_ms, min(row[0] for row in ahead))
        else:
            next_ms.clear()
        yield from _tagged(outputs)

    def _set(self, window, next_ms, end_ms: int) -> None:
        next_ms.write(end_ms)
        window.set(Timestamp(micros=(end_ms + self._delay_ms) * 1000))


def _by_table(rows: Iterable[tuple[str, pa.RecordBatch]]) -> dict[str, list[Columns]]:
    by_table: dict[str, list[Columns]] = {}
    for name, batch in rows:
        by_table.setdefault(name, []).append(to_columns([batch]))
    return by_table


def _tagged(outputs: Tables) -> Iterator[beam.pvalue.TaggedOutput]:
    for name, columns in outputs.items():
        rows = len(next(iter(columns.values())))
        if rows and name.startswith("late_"):
            beam.metrics.Metrics.counter("stages", name).inc(rows)
        if rows:
            yield beam.pvalue.TaggedOutput(name, to_batch(columns))
