"""Lines of live events, from wherever they come, as PCollections of batches."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_transforms.event_lines import EventLineParser, ParsedLines
from beam_transforms.read_partitions import DEAD_LETTERS

EVENTS, SEGMENTS, PRODUCTS = "events", "segments", "products"
TAGS = (SEGMENTS, PRODUCTS, DEAD_LETTERS)
"""The additional outputs; `EVENTS` is the main one."""

FUTURE_MS = 60_000
"""A line of a time further ahead of the clock on arrival is from the future: a producer's clock is wrong."""

_BUNDLE_BYTES = 4 << 20


class ParseEventLines(beam.PTransform):
    """bytes -> batches of events (main output), of segments, of products, and dead letters as dicts.

    An element holds one or more lines; those of a bundle are parsed together. Bounded and unbounded input, in the
    global window; nothing is dropped, whatever its time. A batch has the least timestamp of the elements that it came
    from. What becomes of a line depends on the line alone if `embedding_width` is given and `future_ms` is None: a
    retried bundle then gives the same rows again.

    Args:
        name: Where lines come from, for dead letters; their line number is the one in the element.
        embedding_width: Floats of a segment's embedding; None takes the first segment's, in each worker anew.
        future_ms: How far ahead of `clock` a time may be; None lets every time pass.
        clock: Seconds since 1970 on arrival; another one for replays.
    """

    def __init__(
        self,
        name: str = "live events",
        embedding_width: int | None = None,
        future_ms: int | None = FUTURE_MS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._arguments = (name, embedding_width, future_ms, clock)

    def expand(self, lines: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        return lines | beam.ParDo(_Parse(*self._arguments)).with_outputs(*TAGS, main=EVENTS)


def latest_ms(future_ms: int | None, clock: Callable[[], float]) -> int | None:
    """The latest time that isn't from the future now."""
    return None if future_ms is None else int(clock() * 1000) + future_ms


class CountParsed:
    """Gives the outputs of `ParsedLines` by tag, and counts their rows in Beam's metrics."""

    def __init__(self) -> None:
        self._counters = {tag: beam.metrics.Metrics.counter("read", tag) for tag in (EVENTS, *TAGS)}

    def outputs(self, parsed: ParsedLines) -> Iterator[tuple[str, Any]]:
        for tag in (EVENTS, SEGMENTS, PRODUCTS):
            batch = getattr(parsed, tag)
            if batch is not None:
                self._counters[tag].inc(batch.num_rows)
                yield tag, batch
        for letter in parsed.dead_letters:
            self._counters[DEAD_LETTERS].inc()
            yield DEAD_LETTERS, dataclasses.asdict(letter)


class _Parse(beam.DoFn):
    def __init__(
        self, name: str, embedding_width: int | None, future_ms: int | None, clock: Callable[[], float]
    ) -> None:
        super().__init__()
        self._name, self._embedding_width, self._future_ms, self._clock = name, embedding_width, future_ms, clock
        self._count = CountParsed()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._timestamp: Timestamp = MAX_TIMESTAMP

    def setup(self) -> None:
        self._parser = EventLineParser(self._embedding_width)

    def start_bundle(self) -> None:
        self._reset()

    def process(self, lines: bytes, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Any]:
        self._lines.append(lines[:-1] if lines.endswith(b"\n") else lines)
        self._bytes += len(lines)
        self._timestamp = min(self._timestamp, timestamp)
        if self._bytes >= _BUNDLE_BYTES:
            for tag, value in self._count.outputs(self._parse()):
                windowed = TimestampedValue(value, self._timestamp)
                yield windowed if tag == EVENTS else beam.pvalue.TaggedOutput(tag, windowed)
            self._reset()

    def finish_bundle(self) -> Iterator[Any]:
        if self._lines:
            for tag, value in self._count.outputs(self._parse()):
                windowed = WindowedValue(value, self._timestamp, (GlobalWindow(),))
                yield windowed if tag == EVENTS else beam.pvalue.TaggedOutput(tag, windowed)
            self._reset()

    def _reset(self) -> None:
        self._lines, self._bytes, self._timestamp = [], 0, MAX_TIMESTAMP

    def _parse(self) -> ParsedLines:
        positions = [line for lines in self._lines for line in range(1, lines.count(b"\n") + 2)]
        latest = latest_ms(self._future_ms, self._clock)
        return self._parser.parse(b"\n".join(self._lines), self._name, latest_ms=latest, positions=positions)
