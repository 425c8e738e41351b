"""RunStage over unbounded input: which rows a step takes."""

from collections.abc import Mapping

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import TimestampedValue

from beam_transforms.columnar import to_batch, to_columns
from beam_transforms.run_stage import RunStage
from beam_transforms.schema import WINDOW_MS
from beam_transforms.stage import Clock, Input, Stage, Tables
from tests.beam_transforms.event_logs import NOON_MS
from tests.beam_transforms.replayed import RUNNER


class _Seen(Stage):
    """Says at which step each row was there."""

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"rows": Input({"timestamp_ms": np.zeros(0, np.int64)}, kept=False)}

    @property
    def tables_out(self) -> tuple[str, ...]:
        return ("seen",)

    def empty(self) -> Tables:
        return {}

    def outputs(self, state: Tables, rows: Tables, before: Clock, now: Clock) -> Tables:
        times = rows["rows"]["timestamp_ms"]
        return {"seen": {"timestamp_ms": times, "now_ms": np.full(len(times), now.now_ms)}}

    def fold(self, state: Tables, rows: Tables, until_ms: int) -> Tables:
        return {}


def test_a_step_leaves_what_another_shard_gave_ahead_of_time():
    """Shards of the stage before aren't in step: what one gave at a later window's end waits for that window."""
    windows = (1, 1, 3, 9, 3)
    stream = TestStream().advance_watermark_to(NOON_MS // 1000)
    for number in windows:
        end_ms = NOON_MS + number * WINDOW_MS
        row = to_batch({"timestamp_ms": np.array([end_ms])})
        stream.add_elements([TimestampedValue((0, row), end_ms / 1000)])
    for number in range(1, 12):
        stream.advance_watermark_to((NOON_MS + number * WINDOW_MS) / 1000 + 1)
    stream.advance_watermark_to_infinity()
    with beam.Pipeline(options=PipelineOptions(list(RUNNER))) as pipeline:
        rows = pipeline | stream.with_output_types(tuple[int, beam.typehints.Any])
        seen = ({"rows": rows} | RunStage(_Seen(), 0, delay_ms=1)).seen | beam.FlatMap(_steps)
        assert_that(seen, equal_to([(NOON_MS + n * WINDOW_MS,) * 2 for n in windows]))


def _steps(batch):
    columns = to_columns([batch])
    return zip(columns["timestamp_ms"].tolist(), columns["now_ms"].tolist(), strict=True)
