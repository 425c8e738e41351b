"""What ReadEvents, ReadSegments and ReadProducts have in common: a source's partitions, read by workers."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
import pyarrow as pa

from beam_transforms.sources.source import DeadLetter, Partition

DEAD_LETTERS = "dead_letters"

Reader = Callable[[Partition], Iterator[pa.RecordBatch | DeadLetter]]


class ReadPartitions(beam.PTransform):
    """Partitions -> batches of rows, and what could not be read as dicts under the tag `dead_letters`.

    Bounded input. Each partition is read by one worker; a retried bundle reads it again whole, so every row comes once.

    Args:
        what: What the rows are, in the plural: the main output's tag and the counter's name.
        partitions: What to read; there may be none.
        read: Streams a partition; it is sent to the workers.
    """

    def __init__(self, what: str, partitions: Sequence[Partition], read: Reader) -> None:
        super().__init__()
        self._what = what
        self._partitions = list(partitions)
        self._read = read

    def expand(self, begin: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        return (
            begin
            | beam.Create(self._partitions)
            | beam.Reshuffle()
            | beam.ParDo(_Read(self._what, self._read)).with_outputs(DEAD_LETTERS, main=self._what)
        )


class _Read(beam.DoFn):
    def __init__(self, what: str, read: Reader) -> None:
        super().__init__()
        self._read = read
        self._rows = beam.metrics.Metrics.counter("read", what)
        self._dead_letters = beam.metrics.Metrics.counter("read", DEAD_LETTERS)

    def process(self, partition: Partition) -> Iterator[pa.RecordBatch]:
        for item in self._read(partition):
            if isinstance(item, DeadLetter):
                self._dead_letters.inc()
                yield beam.pvalue.TaggedOutput(DEAD_LETTERS, dataclasses.asdict(item))
            else:
                self._rows.inc(item.num_rows)
                yield item
