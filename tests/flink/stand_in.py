"""A small streaming pipeline of the real one's shape: two chained stages with state and event-time timers, on Kafka.

Run by the tests as a program: its process holds the LOOPBACK workers.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import VarIntCoder
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.external import ExternalTransform, ImplicitSchemaPayloadBuilder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from beam_transforms.columnar import mix, split_by_shard, to_batch, to_columns
from beam_transforms.events import RecordBatchCoder, register_coders
from beam_transforms.schema import WINDOW_MS

SHARDS = 16
LATENESS_MS = 10_000
_BYTES = "org.apache.kafka.common.serialization.ByteArrayDeserializer"


def count_rooms(batches: list[pa.RecordBatch]) -> dict[int, int]:
    """Room -> events."""
    rooms, counts = np.unique(to_columns(batches)["live_id"], return_counts=True)
    return dict(zip(rooms.tolist(), counts.tolist(), strict=True))


def shard_of(live_id: np.ndarray) -> np.ndarray:
    return (mix(live_id) % np.uint64(SHARDS)).astype(np.int64)


class _Decode(beam.DoFn):
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def process(self, record: tuple[bytes | None, bytes | None]) -> Iterator[tuple[int, pa.RecordBatch]]:
        time.sleep(self._delay_s)
        batch = RecordBatchCoder().decode(record[1] or b"")
        yield from split_by_shard(batch, shard_of(batch.column("live_id").to_numpy()))


def _first_end(batch: pa.RecordBatch) -> int:
    """The end of the first window with an event."""
    return (int(batch.column("timestamp_ms").to_numpy().min()) // WINDOW_MS + 1) * WINDOW_MS


class _CountWindows(beam.DoFn):
    """Keeps events until their window is over and the allowed lateness has passed, then counts them."""

    WAITING = BagStateSpec("waiting", RecordBatchCoder())
    NEXT_END = ReadModifyWriteStateSpec("next_end", VarIntCoder())
    WINDOW_END = TimerSpec("window_end", TimeDomain.WATERMARK)

    def process(
        self,
        element: tuple[int, pa.RecordBatch],
        waiting=beam.DoFn.StateParam(WAITING),
        next_end=beam.DoFn.StateParam(NEXT_END),
        timer=beam.DoFn.TimerParam(WINDOW_END),
    ) -> None:
        waiting.add(element[1])
        end, known = _first_end(element[1]), next_end.read()
        if known is None or end < known:
            next_end.write(end)
            timer.set(Timestamp(micros=(end + LATENESS_MS) * 1000))

    @on_timer(WINDOW_END)
    def close(
        self,
        key=beam.DoFn.KeyParam,
        time=beam.DoFn.TimestampParam,
        waiting=beam.DoFn.StateParam(WAITING),
        next_end=beam.DoFn.StateParam(NEXT_END),
        timer=beam.DoFn.TimerParam(WINDOW_END),
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        end = time.micros // 1000 - LATENESS_MS
        table = pa.Table.from_batches(list(waiting.read())).combine_chunks().to_batches()[0]
        over = table.column("timestamp_ms").to_numpy() < end
        waiting.clear()
        next_end.clear()
        if over.any():
            counts = count_rooms([table.filter(pa.array(over))])
            columns = {"live_id": np.array(list(counts)), "events": np.array(list(counts.values()))}
            columns["window_end_ms"] = np.full(len(counts), end)
            yield key, to_batch(columns)
        if not over.all():
            left = table.filter(pa.array(~over))
            waiting.add(left)
            next_end.write(_first_end(left))
            timer.set(Timestamp(micros=(_first_end(left) + LATENESS_MS) * 1000))


class _WriteWindows(beam.DoFn):
    """Writes a shard's counts of a window, 1 ms of event time after they were made, as one file."""

    WAITING = BagStateSpec("waiting", RecordBatchCoder())
    READY = TimerSpec("ready", TimeDomain.WATERMARK)

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(
        self,
        element: tuple[int, pa.RecordBatch],
        time=beam.DoFn.TimestampParam,
        waiting=beam.DoFn.StateParam(WAITING),
        timer=beam.DoFn.TimerParam(READY),
    ) -> None:
        waiting.add(element[1])
        timer.set(Timestamp(micros=time.micros + 1000))

    @on_timer(READY)
    def write(self, key=beam.DoFn.KeyParam, waiting=beam.DoFn.StateParam(WAITING)) -> None:
        columns = to_columns(list(waiting.read()))
        waiting.clear()
        for end in np.unique(columns["window_end_ms"]).tolist():
            rows = columns["window_end_ms"] == end
            counts = sorted(zip(columns["live_id"][rows].tolist(), columns["events"][rows].tolist(), strict=True))
            write_once(Path(self._folder) / f"{key:03d}-{end}.json", json.dumps(counts))


def write_once(path: Path, text: str) -> None:
    """Writes beside and renames, so that a replay writes the same file again; another content is kept as a conflict."""
    if path.exists() and path.read_text() != text:
        path = path.with_suffix(f".conflict-{time.time_ns()}")
    beside = path.with_suffix(f".{os.getpid()}-{time.time_ns()}.part")
    beside.write_text(text)
    beside.replace(path)


def read_kafka(brokers: str, topic: str, expansion_service: str) -> ExternalTransform:
    """Beam's ReadFromKafka, with the settings that the expansion service's release knows too."""
    return ExternalTransform(
        ReadFromKafka.URN_WITHOUT_METADATA,
        ImplicitSchemaPayloadBuilder(
            {
                "consumer_config": {"bootstrap.servers": brokers, "auto.offset.reset": "earliest"},
                "topics": [topic],
                "key_deserializer": _BYTES,
                "value_deserializer": _BYTES,
                "commit_offset_in_finalize": False,
                "timestamp_policy": ReadFromKafka.create_time_policy,
            }
        ),
        expansion_service,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--kafka_expansion_service", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--delay_s", type=float, default=0.0)
    known, options = parser.parse_known_args()
    register_coders()
    pipeline = beam.Pipeline(options=PipelineOptions(options))
    (
        pipeline
        | "Read" >> read_kafka(known.brokers, known.topic, known.kafka_expansion_service)
        | "Decode" >> beam.ParDo(_Decode(known.delay_s)).with_output_types(tuple[int, pa.RecordBatch])
        | "CountWindows" >> beam.ParDo(_CountWindows()).with_output_types(tuple[int, pa.RecordBatch])
        | "WriteWindows" >> beam.ParDo(_WriteWindows(known.output))
    )
    pipeline.run().wait_until_finish()


if __name__ == "__main__":
    main()
