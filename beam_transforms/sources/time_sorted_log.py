"""TimeSortedLog: all rows of a source as lines of live events, in the order of their times, in bounded memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from beam_transforms.columnar import concatenate, take, to_batch, to_columns
from beam_transforms.content import PRODUCT_COLUMNS, SEGMENT_COLUMNS
from beam_transforms.encode_event_lines import encode_event_lines
from beam_transforms.events import EVENT_ARROW_SCHEMA, RecordBatchCoder
from beam_transforms.sources.source import DeadLetter, Source

BUCKET_MS = 600_000
"""Event time whose rows are in memory at once."""

_CODER = RecordBatchCoder()
_COLUMNS = {
    "events": list(EVENT_ARROW_SCHEMA.names),
    "segments": list(SEGMENT_COLUMNS),
    "products": list(PRODUCT_COLUMNS),
}
_LENGTH_BYTES = 8


class TimeSortedLog:
    """Context manager over a source's events, segments and products, sorted by time through a temporary folder.

    The time of a row is the one that its line tells: of a segment its end. Rows of one millisecond stay in the order
    events, segments, products, and within these in that of the source.

    Attributes:
        rows: Rows by kind: `events`, `segments` and `products`.
        dead_letters: Rows that can't be read; they aren't in the log.
        first_ms: Time of the first row; None if there is none.
        last_ms: Time of the last row.
    """

    def __init__(self, source: Source, from_ms: int | None = None, until_ms: int | None = None) -> None:
        """Reads nothing yet.

        Args:
            source: Where the rows come from.
            from_ms: Rows earlier than this are left out.
            until_ms: Rows at this time or later are left out.
        """
        self._source, self._from_ms, self._until_ms = source, from_ms, until_ms
        self.rows = dict.fromkeys(_COLUMNS, 0)
        self.dead_letters = 0
        self.first_ms: int | None = None
        self.last_ms: int | None = None
        self._buckets: set[int] = set()

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="replay-")
        self._folder = Path(self._temporary.name)
        try:
            source = self._source
            for partition in source.partitions():
                for item in source.read(partition):
                    self._add("events", item)
            for partition in source.segment_partitions():
                for item in source.read_segments(partition):
                    self._add("segments", item)
            for partition in source.product_partitions():
                for item in source.read_products(partition):
                    self._add("products", item)
        except BaseException:
            self._temporary.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._temporary.cleanup()

    def slices(self, length_ms: int, shift_ms: int = 0) -> Iterator[tuple[int, bytes]]:
        """The log cut into pieces of `length_ms` of event time from `first_ms` on; those without a row are left out.

        Args:
            length_ms: Length of a piece.
            shift_ms: What is added to every time.

        Yields:
            The number of the piece, ascending from 0, and its lines, in the order of their times.
        """
        number, parts = 0, list[bytes]()
        for times, lines in self._sorted_buckets(shift_ms):
            piece = (times - self._begin_ms) // length_ms
            cuts = np.concatenate([[0], np.flatnonzero(np.diff(piece)) + 1, [len(piece)]])
            for begin, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
                if parts and int(piece[begin]) != number:
                    yield number, b"".join(parts)
                    parts = []
                number = int(piece[begin])
                parts += lines[begin:end]
        if parts:
            yield number, b"".join(parts)

    @property
    def _begin_ms(self) -> int:
        return self.first_ms or 0

    def _add(self, kind: str, item: pa.RecordBatch | DeadLetter) -> None:
        """Puts the rows of a batch into the files of their buckets."""
        if isinstance(item, DeadLetter):
            self.dead_letters += 1
            return
        columns = to_columns([item])
        times = columns["timestamp_ms"] + (kind == "segments")
        inside = np.ones(len(times), dtype=bool)
        if self._from_ms is not None:
            inside &= times >= self._from_ms
        if self._until_ms is not None:
            inside &= times < self._until_ms
        if not inside.any():
            return
        columns, times = take(columns, np.flatnonzero(inside)), times[inside]
        self.rows[kind] += len(times)
        self.first_ms = min(int(times.min()), int(times.min()) if self.first_ms is None else self.first_ms)
        self.last_ms = max(int(times.max()), int(times.max()) if self.last_ms is None else self.last_ms)
        bucket = times // BUCKET_MS
        for number in np.unique(bucket).tolist():
            encoded = _CODER.encode(to_batch(take(columns, np.flatnonzero(bucket == number))))
            self._buckets.add(number)
            with (self._folder / f"{number}.{kind}").open("ab") as file:
                file.write(len(encoded).to_bytes(_LENGTH_BYTES, "little"))
                file.write(encoded)

    def _sorted_buckets(self, shift_ms: int) -> Iterator[tuple[np.ndarray, list[bytes]]]:
        """Times as they are in the source, and lines with shifted times, of each bucket."""
        for number in sorted(self._buckets):
            times: list[np.ndarray] = []
            lines: list[bytes] = []
            for kind, names in _COLUMNS.items():
                batches = list(_stored(self._folder / f"{number}.{kind}"))
                if batches:
                    columns = concatenate([to_columns([batch]) for batch in batches])
                    times.append(columns["timestamp_ms"] + (kind == "segments"))
                    columns["timestamp_ms"] = columns["timestamp_ms"] + shift_ms
                    lines += _lines({name: columns[name] for name in names})
            merged = np.concatenate(times)
            order = np.argsort(merged, kind="stable")
            yield merged[order], [lines[row] for row in order.tolist()]


def _lines(columns: dict[str, np.ndarray]) -> list[bytes]:
    return encode_event_lines(to_batch(columns)).splitlines(keepends=True)


def _stored(path: Path) -> Iterator[pa.RecordBatch]:
    if not path.exists():
        return
    with path.open("rb") as file:
        while head := file.read(_LENGTH_BYTES):
            yield _CODER.decode(file.read(int.from_bytes(head, "little")))
