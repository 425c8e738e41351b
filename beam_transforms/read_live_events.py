"""Live events of a followed directory or a Kafka topic as PCollections of batches."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.unbounded_source import ReadFromUnboundedSource, UnboundedSource

from beam_transforms.event_lines import ParsedLines
from beam_transforms.parse_event_lines import EVENTS, TAGS, CountParsed


class ReadLiveEvents(beam.PTransform):
    """Live source -> batches of events (main output), of segments, of products, and dead letters as dicts.

    Unbounded input, in the global window. Each line comes once for each committed checkpoint of the runner: after a
    crash the source goes on behind the last one. A batch's Beam timestamp is never behind the watermark, whatever its
    rows' times are, so Beam drops nothing as late: what is too late is the stages' business.

    Args:
        source: `FollowedDirectory` or `KafkaTopic`.
        poll_s: Seconds between looks at a source that had nothing new.
        checkpoint_s: Seconds after which a busy source is checkpointed.
    """

    def __init__(self, source: UnboundedSource, poll_s: float = 1.0, checkpoint_s: float = 10.0) -> None:
        super().__init__()
        self._source, self._poll_s, self._checkpoint_s = source, poll_s, checkpoint_s

    def expand(self, begin: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        return (
            begin
            | ReadFromUnboundedSource(
                self._source, poll_interval=self._poll_s, max_read_time_seconds=self._checkpoint_s
            )
            | beam.ParDo(_Split()).with_outputs(*TAGS, main=EVENTS)
        )


class _Split(beam.DoFn):
    def __init__(self) -> None:
        super().__init__()
        self._count = CountParsed()

    def process(self, parsed: ParsedLines) -> Iterator[Any]:
        for tag, value in self._count.outputs(parsed):
            yield value if tag == EVENTS else beam.pvalue.TaggedOutput(tag, value)
