"""ReplayedEvents: what `ReadLiveEvents` gives, as a TestStream, for the runner that streams in the tests."""

import apache_beam as beam
from apache_beam.io.unbounded_source import UnboundedSource
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from beam_transforms.event_lines import ParsedLines
from beam_transforms.parse_event_lines import EVENTS, TAGS, CountParsed
from beam_transforms.schema import WINDOW_MS

RUNNER = ("--runner=BundleBasedDirectRunner", "--streaming", "--allow_unsafe_triggers")


class ReplayedEvents(beam.PTransform):
    """A live source that ends, element by element, with its timestamps and its watermark.

    Args:
        source: What is replayed.
        idle_s: How far the watermark goes on behind the last element, window by window, before it goes to infinity.
    """

    def __init__(self, source: UnboundedSource, idle_s: int = 0) -> None:
        super().__init__()
        self._stream = TestStream()
        reader = source.create_reader(None, None)
        there, watermark = reader.start(), MIN_TIMESTAMP
        while reader.get_watermark() != MAX_TIMESTAMP:
            if there:
                self._stream.add_elements([TimestampedValue(reader.get_current(), reader.get_current_timestamp())])
            if reader.get_watermark() > watermark:
                # No later than the first element.
                before = reader.get_current_timestamp() if watermark == MIN_TIMESTAMP else watermark
                self._advance(before, reader.get_watermark())
                watermark = reader.get_watermark()
            there = reader.advance()
        if idle_s:
            self._advance(watermark, watermark + idle_s)
        self._stream.advance_watermark_to_infinity()

    def _advance(self, before: Timestamp, after: Timestamp) -> None:
        """Advances the watermark, slowly at each window's end.

        This runner's watermark doesn't wait for timers, so that of a stage would come before what flows into it.
        """
        first_ms = before.micros // 1000 // WINDOW_MS * WINDOW_MS
        for end_ms in range(first_ms, after.micros // 1000 + 1, WINDOW_MS):
            for wait_ms in (0, 1, 2, 10):
                step = Timestamp(micros=(end_ms + wait_ms) * 1000)
                if before < step < after:
                    self._stream.advance_watermark_to(step)
        self._stream.advance_watermark_to(after)

    def expand(self, begin: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        return begin | self._stream | beam.ParDo(_Split()).with_outputs(*TAGS, main=EVENTS)


class _Split(beam.DoFn):
    def setup(self) -> None:
        self._count = CountParsed()

    def process(self, parsed: ParsedLines):
        for tag, value in self._count.outputs(parsed):
            yield value if tag == EVENTS else beam.pvalue.TaggedOutput(tag, value)
