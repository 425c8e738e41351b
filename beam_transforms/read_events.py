"""Events of a source as a PCollection."""

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa

from beam_transforms.sources.source import DeadLetter, Partition, Source

DEAD_LETTERS = "dead_letters"


class ReadEvents(beam.PTransform):
    """Source -> batches of events, and the rows that could not be read as dicts under the tag `dead_letters`.

    Args:
        source: What to read; each of its partitions is read by one worker.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def expand(self, begin: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        return (
            begin
            | beam.Create(self._source.partitions())
            | beam.Reshuffle()
            | beam.ParDo(_Read(self._source)).with_outputs(DEAD_LETTERS, main="events")
        )


class _Read(beam.DoFn):
    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._events = beam.metrics.Metrics.counter("read", "events")
        self._dead_letters = beam.metrics.Metrics.counter("read", DEAD_LETTERS)

    def process(self, partition: Partition) -> Iterator[pa.RecordBatch]:
        for item in self._source.read(partition):
            if isinstance(item, DeadLetter):
                self._dead_letters.inc()
                yield beam.pvalue.TaggedOutput(DEAD_LETTERS, dataclasses.asdict(item))
            else:
                self._events.inc(item.num_rows)
                yield item
