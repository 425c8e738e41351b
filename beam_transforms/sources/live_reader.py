"""What the readers of live sources have in common."""

import abc
from typing import Any

from apache_beam.io.unbounded_source import UnboundedReader
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from beam_transforms.event_lines import ParsedLines


class LiveReader(UnboundedReader, abc.ABC):
    """Reads blocks of lines as `ParsedLines`; its watermark never goes back.

    Args:
        watermark_ms: The watermark to begin with, None for none.
    """

    def __init__(self, watermark_ms: int | None) -> None:
        self._watermark_ms = watermark_ms
        self._current: ParsedLines | None = None
        self._timestamp: Timestamp = MIN_TIMESTAMP
        self._ended = False

    @abc.abstractmethod
    def _next(self) -> ParsedLines | None:
        """The next lines, or None if there is nothing new; sets `_ended` if there never will be."""

    @abc.abstractmethod
    def _watermark_after(self, parsed: ParsedLines | None) -> int | None:
        """The watermark with these lines read, None if nothing is known; it may lie behind the one before."""

    def start(self) -> bool:
        return self.advance()

    def advance(self) -> bool:
        parsed = self._next()
        before, after = self._watermark_ms, self._watermark_after(parsed)
        if after is not None:
            self._watermark_ms = after if before is None else max(before, after)
        self._current = parsed
        if parsed is None:
            return False
        # Never behind the watermark, so that no runner takes it for late.
        known = [time for time in (before, parsed.oldest_ms) if time is not None]
        self._timestamp = _timestamp(max(known)) if known else MIN_TIMESTAMP
        return True

    def get_current(self) -> Any:
        return self._current

    def get_current_timestamp(self) -> Timestamp:
        return self._timestamp

    def get_watermark(self) -> Timestamp:
        if self._ended:
            return MAX_TIMESTAMP
        return MIN_TIMESTAMP if self._watermark_ms is None else _timestamp(self._watermark_ms)


def _timestamp(milliseconds: int) -> Timestamp:
    return Timestamp(micros=milliseconds * 1000)
