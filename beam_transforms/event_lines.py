"""Live events as lines of JSON: batches from bytes, and bytes from batches. docs/input.md describes the format."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_transforms.content import PRODUCT_COLUMNS, product_batch, segment_batch
from beam_transforms.events import event_batch
from beam_transforms.json_lines import Lines, read_lines
from beam_transforms.line_format import ALLOWED, LINE_SCHEMA, PRODUCT, REQUIRED, SEGMENT, fault
from beam_transforms.schema import PADDING_ID, EventKind
from beam_transforms.sources.source import MAX_TEXT, DeadLetter
from beam_transforms.sources.tables.timestamps import MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS

_KINDS = list(REQUIRED)
_NUMBERS = np.array([EventKind[name] if name in EventKind.__members__ else -1 for name in _KINDS])
_ROOM = np.array([name in (EventKind.ROOM_START.name, EventKind.ROOM_END.name) for name in _KINDS])
_NEEDED = {name: np.array([name in REQUIRED[kind] for kind in _KINDS]) for name in LINE_SCHEMA.names}
_ALLOWED = {name: np.array([name in ALLOWED[kind] for kind in _KINDS]) for name in LINE_SCHEMA.names}
_IDS = tuple(name for name in LINE_SCHEMA.names if name not in ("kind", "timestamp_ms", "value", "embedding"))


@dataclasses.dataclass(frozen=True)
class ParsedLines:
    """What lines hold.

    Attributes:
        events: Schema `EVENT_ARROW_SCHEMA`, in the order of the lines; None where there is none, as below.
        segments: Schema `content.segment_arrow_schema(W)`.
        products: Schema `content.PRODUCT_ARROW_SCHEMA`.
        dead_letters: One for each line that can't be read.
        oldest_ms: The least time that a line tells (of a segment its end); None if no line could be read.
        newest_ms: The greatest.
    """

    events: pa.RecordBatch | None = None
    segments: pa.RecordBatch | None = None
    products: pa.RecordBatch | None = None
    dead_letters: tuple[DeadLetter, ...] = ()
    oldest_ms: int | None = None
    newest_ms: int | None = None

    @property
    def is_empty(self) -> bool:
        return self.newest_ms is None and not self.dead_letters


class EventLineParser:
    """Turns lines of JSON into batches; what can't be read becomes a dead letter, whatever it is.

    Whole blocks are parsed at once; only one that holds a damaged line is looked at line by line.

    Args:
        embedding_width: Floats of a segment's embedding. None takes that of the first segment, which isn't the same in
            every worker: give it where several read.

    Raises:
        ValueError: If `embedding_width` isn't positive.
    """

    def __init__(self, embedding_width: int | None = None) -> None:
        if embedding_width is not None and embedding_width < 1:
            raise ValueError(f"embedding_width must be positive or None, got {embedding_width}")
        self._width = embedding_width

    def parse(
        self,
        block: bytes,
        file: str,
        line: int = 1,
        latest_ms: int | None = None,
        positions: Sequence[int] | None = None,
    ) -> ParsedLines:
        """Parses lines.

        Args:
            block: Lines, the last one with or without a newline. Blank lines mean nothing.
            file: Where they come from, for dead letters.
            line: Number of the first line, for dead letters.
            latest_ms: A line of a later time is from the future: a dead letter. None lets every time pass.
            positions: The number of each line (blank ones too), instead of counting from `line`.
        """
        lines = Lines(block)
        table, rows, faults = read_lines(lines)
        parsed = self._check(table, rows, faults, latest_ms)
        letters = []
        for row, reason in sorted(faults.items()):
            number = line + row if positions is None else positions[row]
            text = lines[row]
            reason = reason or fault(text) or "not a line of live events"
            letters.append(DeadLetter(file, int(number), reason, text[: 4 * MAX_TEXT].decode("utf-8", "replace")))
        return dataclasses.replace(parsed, dead_letters=tuple(letters))

    def _check(self, table: pa.Table, rows: np.ndarray, faults: dict[int, str], latest_ms: int | None) -> ParsedLines:
        """Sorts rows by what they are; what doesn't fit goes to `faults`."""
        kinds = pc.fill_null(pc.index_in(table["kind"], pa.array(_KINDS)), -1).combine_chunks().to_numpy()
        bad = kinds < 0
        columns: dict[str, np.ndarray] = {}
        for name in table.schema.names[1:]:
            given = pc.is_valid(table[name]).combine_chunks().to_numpy(zero_copy_only=False)
            bad |= np.where(given, ~_ALLOWED[name][kinds], _NEEDED[name][kinds])
            if name != "embedding":
                fill = 1.0 if name == "value" else 0
                columns[name] = pc.fill_null(table[name], fill).combine_chunks().to_numpy()
        for name in _IDS:
            bad |= columns[name] < 0
        times = columns["timestamp_ms"]
        bad |= (times < MIN_TIMESTAMP_MS) | (times >= MAX_TIMESTAMP_MS)
        with np.errstate(over="ignore"):
            columns["value"] = columns["value"].astype(np.float32)
        bad |= ~np.isfinite(columns["value"])
        for row in np.flatnonzero(bad):
            faults[int(rows[row])] = ""  # `fault` finds the words
        if latest_ms is not None:
            future = ~bad & (times > latest_ms)
            for row in np.flatnonzero(future):
                faults[int(rows[row])] = (
                    f"from the future: {times[row]} is {times[row] - latest_ms} ms later than allowed"
                )
            bad |= future
        segments, vectors = self._embeddings(
            table, np.flatnonzero(~bad & (kinds == _KINDS.index(SEGMENT))), rows, faults
        )
        events = np.flatnonzero(~bad & (_NUMBERS[kinds] >= 0))
        products = np.flatnonzero(~bad & (kinds == _KINDS.index(PRODUCT)))
        good = times[np.concatenate([events, segments, products])]
        return ParsedLines(
            events=_events(columns, kinds, events) if len(events) else None,
            segments=_segments(columns, segments, vectors) if len(segments) else None,
            products=product_batch(**{name: columns[name][products] for name in PRODUCT_COLUMNS})
            if len(products)
            else None,
            oldest_ms=int(good.min()) if len(good) else None,
            newest_ms=int(good.max()) if len(good) else None,
        )

    def _embeddings(
        self, table: pa.Table, segments: np.ndarray, rows: np.ndarray, faults: dict[int, str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The segments whose embedding can be read, and the embeddings."""
        if not len(segments):
            return segments, np.zeros((0, 0))
        lists = table["embedding"].combine_chunks().take(pa.array(segments))
        lengths = lists.value_lengths().to_numpy()
        starts = np.concatenate([[0], np.cumsum(lengths)])
        flat = lists.flatten()
        nulls = np.concatenate([[0], np.cumsum(flat.is_null().to_numpy(zero_copy_only=False))])
        whole = (nulls[starts[1:]] == nulls[starts[:-1]]) & (lengths > 0)
        if self._width is None and whole.any():
            self._width = int(lengths[whole][0])
        fits = whole & (lengths == self._width)
        for place in np.flatnonzero(~fits):
            wrong = f"embedding should have {self._width} floats like the others, got {lengths[place]}"
            faults[int(rows[segments[place]])] = wrong if whole[place] else ""
        values = flat.to_numpy(zero_copy_only=False)
        vectors = values[np.repeat(fits, lengths)].reshape(-1, self._width or 1)
        return segments[fits], vectors


def _events(columns: dict[str, np.ndarray], kinds: np.ndarray, rows: np.ndarray) -> pa.RecordBatch:
    users = np.where(_ROOM[kinds[rows]], PADDING_ID, columns["user_id"][rows])
    times, authors, rooms, values = (columns[name][rows] for name in ("timestamp_ms", "author_id", "live_id", "value"))
    return event_batch(_NUMBERS[kinds[rows]], times, users, authors, rooms, values)


def _segments(columns: dict[str, np.ndarray], rows: np.ndarray, vectors: np.ndarray) -> pa.RecordBatch:
    rooms, authors, ends = (columns[name][rows] for name in ("live_id", "author_id", "timestamp_ms"))
    return segment_batch(rooms, authors, ends - 1, vectors)
