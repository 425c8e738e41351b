"""LocalStream: the streaming pipeline in this process, without a runner."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from apache_beam.io.unbounded_source import UnboundedReader
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP

from beam_transforms.codebook import Codebook
from beam_transforms.columnar import Columns, concatenate, take, to_batch, to_columns
from beam_transforms.event_lines import ParsedLines
from beam_transforms.events import RecordBatchCoder
from beam_transforms.impressions import IMPRESSION_COLUMNS
from beam_transforms.labels import FastWindow, LabelPolicy
from beam_transforms.local_stages import LocalStages
from beam_transforms.online_features import write_window
from beam_transforms.online_store import OnlineStore, open_online_store
from beam_transforms.read_events import DEAD_LETTERS
from beam_transforms.schema import WINDOW_MS, EventKind, RankingSchema, schema_to_json
from beam_transforms.sources.live_source import LiveSource
from beam_transforms.spans import SpanPlan
from beam_transforms.stage import LATENESS_MS, Tables
from beam_transforms.stream_checkpoint import StreamCheckpoint
from beam_transforms.stream_segments import quantize, require_same_codes
from beam_transforms.streamed_examples import EXAMPLE_ORDER, write_examples
from beam_transforms.streamed_lines import LATE, dead_letter_line, late_lines, write_lines
from beam_transforms.window_files import file_name, remove_temporaries

_MOST_LETTERS = 16 * 2**20  # bytes of dead letters that wait for a window's end
_LONGEST_WAIT_S = 60.0  # of a dead letter for a window's end

CHECKPOINT = "stream.checkpoint"
"""The checkpoint's file, beside the examples."""

_CODER = RecordBatchCoder()


@dataclasses.dataclass(frozen=True)
class ClosedWindow:
    """What came out when the watermark passed a window's end, or those of several windows at once.

    Attributes:
        end_ms: The window's end: everything earlier had arrived, unless it was late.
        examples: Examples whose labels became final, the columns of `schema.features`, each of shape (B, ...), in the
            order of `EXAMPLE_ORDER`.
        files: Path and number of examples of each file that holds them.
        live_rooms: Rooms that are live; None without a store.
        counts: Rows since the stream began, by name: `events`, `impressions`, `semantic_ids`, `products`, `examples`,
            `dead_letters`, and `late_events` and so on for what came too late.
        emitted_ms: int64 (B,), the event time at which each example's labels were known.
        closed_s: When it was seen that the window had closed, seconds since 1970; None of one that is given once more.
        caught_up: Whether there was nothing more to read at some time since the window before: who then is behind the
            clock waits for a source that is.
    """

    end_ms: int
    examples: Columns
    files: list[tuple[str, int]]
    live_rooms: int | None
    counts: Mapping[str, int]
    emitted_ms: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    closed_s: float | None = None
    caught_up: bool = False


class LocalStream:
    """Live events -> examples by span, the online store, and all that couldn't be used, as `build_stream` gives them.

    Each time the source's watermark passes a window's end, the stages take a step; a block of rows that closes several
    windows is one step. What came out, the source's mark and the stages' state then go into a checkpoint, by one
    rename, and what came out is written from there. So files and store are the same whether the process was killed on
    the way or not. While no window is closed, because no line can be used, dead letters are written after a minute, or
    as soon as they are many: into files of their own, named by the last window and a number.

    When a source ends, as those of replays do, the last step takes what a batch run takes over the same lines: the
    labels that are known by the newest row. A stream that has ended doesn't go on.

    Args:
        source: `FollowedDirectory` or `KafkaTopic`; all of it is read here.
        folder: Where examples, late rows, dead letters and the checkpoint go. One process may use it at a time.
        schema, plan, policy, codebook, store, lateness_ms: See `build_stream`.
        shards: Number of files of a window, span and part.
        poll_s: Seconds between looks at a source that had nothing new.

    Raises:
        ValueError: If the schema's semantic ids aren't those of the codebook.
    """

    def __init__(
        self,
        source: LiveSource,
        folder: Path,
        schema: RankingSchema,
        plan: SpanPlan,
        policy: LabelPolicy | None = None,
        codebook: Codebook | None = None,
        store: Path | str | None = None,
        lateness_ms: int = LATENESS_MS,
        shards: int = 1,
        poll_s: float = 1.0,
    ) -> None:
        require_same_codes(schema, codebook)
        self._source, self._folder, self._schema, self._plan = source, Path(folder), schema, plan
        self._policy, self._codebook, self._store = policy or FastWindow(), codebook, store
        self._lateness_ms, self._shards, self._poll_s = lateness_ms, shards, poll_s
        self._settings = {
            "source": source.place,
            "schema": schema_to_json(schema),
            "plan": repr(plan),
            "lateness_ms": lateness_ms,
            "shards": shards,
            "policy": [type(self._policy).__name__, {name: str(value) for name, value in vars(self._policy).items()}],
            "store": store is not None,
        }

    def windows(self) -> Iterator[ClosedWindow]:
        """Reads on from the checkpoint and gives each window as it is closed and written, until the source has ended.

        The first one after a restart is the last one of before, once more; but where dead letters were written since,
        for which whoever takes the windows had asked for the next one.

        Raises:
            ValueError: If the checkpoint can't be read, or is of a stream with another source or other settings.
            SourceError: If the source can't go on where the checkpoint says.
        """
        path = self._folder / CHECKPOINT
        coder = self._source.get_checkpoint_mark_coder()
        with contextlib.ExitStack() as stack:
            store = None
            if self._store is not None:
                store = stack.enter_context(open_online_store(self._store, readonly=False))
            last = StreamCheckpoint.load(path, self._settings)
            if last is not None:
                window = self._write(last, store)
                files = [] if window is None else window.files
                # A killed process left nothing half-written elsewhere: what it was about to write is written now.
                for folder in {path.parent, path.parent / LATE, path.parent / DEAD_LETTERS}:
                    remove_temporaries(folder)
                for folder in {Path(file).parent for file, _ in files}:
                    remove_temporaries(folder)
                if window is not None:
                    yield window
                if last.ended:
                    return
            mark = coder.decode(last.mark) if last is not None else None
            (source,) = self._source.split(1)
            reader = source.create_reader(None, mark)
            stack.callback(reader.close)
            steps = _Steps(self, last)
            for step in steps.over(reader, self._poll_s):
                mark = reader.get_checkpoint_mark()
                checkpoint = dataclasses.replace(step, mark=coder.encode(mark))
                checkpoint.save(path)
                mark.finalize_checkpoint()
                closed = self._write(checkpoint, store)
                if closed is not None:
                    yield dataclasses.replace(closed, closed_s=steps.closed_s, caught_up=steps.caught_up)

    def ended_ms(self) -> int | None:
        """The last window's end if the stream has ended before, so that `windows` reads nothing more; else None.

        Raises:
            ValueError: If the checkpoint can't be read, or is of a stream with another source or other settings.
        """
        last = StreamCheckpoint.load(self._folder / CHECKPOINT, self._settings)
        return last.now_ms if last is not None and last.ended else None

    def run(self) -> Mapping[str, int]:
        """Reads until the source has ended; gives `ClosedWindow.counts`."""
        counts: Mapping[str, int] = {}
        for window in self.windows():
            counts = window.counts
        return counts

    def _write(self, checkpoint: StreamCheckpoint, store: OnlineStore | None) -> ClosedWindow | None:
        """Writes what a step gave, the same again if it was written before; None if no window was closed."""
        outputs, part = dict(checkpoint.outputs), checkpoint.part
        for name in (LATE, DEAD_LETTERS):
            if name in outputs:
                path = self._folder / name / f"{file_name(checkpoint.now_ms, part, part + 1)}.jsonl"
                write_lines(path, [outputs.pop(name)])
        if part:
            return None
        examples = to_columns([_CODER.decode(outputs.pop("examples"))])
        files = write_examples(self._folder, self._schema, self._plan, self._shards, self._lateness_ms, examples)
        live_rooms = None
        if store is not None:
            tables = [(name, _CODER.decode(data)) for name, data in outputs.items()]
            live_rooms = write_window(store, self._schema, checkpoint.now_ms, tables)
        features = {f.name: examples[f.name].reshape(-1, *f.shape) for f in self._schema.features}
        return ClosedWindow(checkpoint.now_ms, features, files, live_rooms, checkpoint.counts, examples["emitted_ms"])


class _Steps:
    """Rows of a source, a step each time the watermark passes a window's end."""

    def __init__(self, stream: LocalStream, last: StreamCheckpoint | None) -> None:
        self._stream = stream
        self._states = (last.states or None) if last is not None else None
        self._stages = self._new_stages(stream._lateness_ms)
        self._now_ms = (last.now_ms or None) if last is not None else None
        self._newest_ms = last.newest_ms if last is not None else None
        self._counts = collections.Counter(last.counts if last is not None else {})
        waiting = last.arrived if last is not None else {}
        self._arrived = {name: [to_columns([_CODER.decode(data)])] for name, data in waiting.items()}
        self._part = last.part if last is not None else 0
        self._letters: list[bytes] = []
        self._letter_bytes, self._written_s = 0, time.monotonic()
        self.closed_s: float | None = None
        self.caught_up = False
        self._waited = False  # since the last step

    def over(self, reader: UnboundedReader, poll_s: float) -> Iterator[StreamCheckpoint]:
        there = reader.start()
        while True:
            self._waited = self._waited or not there
            if there:
                self._take(reader.get_current())
            watermark = reader.get_watermark()
            if watermark == MAX_TIMESTAMP:
                if self._newest_ms is not None or self._letters:
                    yield self._last_step()
                return
            if watermark != MIN_TIMESTAMP:
                end_ms = watermark.micros // 1000 // WINDOW_MS * WINDOW_MS
                if self._now_ms is None or end_ms > self._now_ms:
                    yield self._step(end_ms)
            waited_s = time.monotonic() - self._written_s
            if self._letters and (self._letter_bytes > _MOST_LETTERS or waited_s > _LONGEST_WAIT_S):
                yield self._only_letters()
            if not there:
                time.sleep(poll_s)
            there = reader.advance()

    def _take(self, parsed: ParsedLines) -> None:
        stream = self._stream
        letters = [dataclasses.asdict(letter) for letter in parsed.dead_letters]
        if parsed.events is not None:
            events = to_columns([parsed.events])
            shown = np.flatnonzero(events["kind"] == EventKind.EXPOSURE)
            self._add("events", events)
            self._add("impressions", take({name: events[name] for name in IMPRESSION_COLUMNS}, shown))
        if parsed.segments is not None and stream._codebook is not None and stream._schema.semantic_id_length:
            semantic_ids, refused = quantize(parsed.segments, stream._codebook)
            self._add("semantic_ids", semantic_ids)
            letters += refused
        if parsed.products is not None and stream._schema.product_length:
            self._add("products", to_columns([parsed.products]))
        self._counts[DEAD_LETTERS] += len(letters)
        lines = [dead_letter_line(letter) for letter in letters]
        self._letters += lines
        self._letter_bytes += sum(map(len, lines))

    def _add(self, name: str, rows: Columns) -> None:
        self._counts[name] += len(rows["timestamp_ms"])
        if len(rows["timestamp_ms"]):
            newest_ms = int(rows["timestamp_ms"].max())
            self._newest_ms = newest_ms if self._newest_ms is None else max(self._newest_ms, newest_ms)
        self._arrived.setdefault(name, []).append(rows)

    def _step(self, end_ms: int, ended: bool = False) -> StreamCheckpoint:
        self.closed_s = time.time()
        self.caught_up, self._waited = self._waited, False
        found = self._stages.step(self._arrived, end_ms)
        self._now_ms, self._states = end_ms, self._stages.state
        self._arrived, self._part = {}, 0
        self._counts["examples"] += len(found["examples"]["timestamp_ms"])
        outputs = self._outputs(found)
        return StreamCheckpoint(
            self._stream._settings, b"", self._states, outputs, end_ms, self._newest_ms, ended, dict(self._counts)
        )

    def _last_step(self) -> StreamCheckpoint:
        """Nothing comes late any more: labels are final up to the newest row."""
        stream = self._stream
        newest_ms = self._newest_ms or 0
        end_ms = newest_ms // WINDOW_MS * WINDOW_MS + WINDOW_MS
        if self._now_ms is not None:
            newest_ms = max(newest_ms, self._now_ms - stream._lateness_ms)
            end_ms = max(end_ms, self._now_ms + WINDOW_MS)
        self._stages = self._new_stages(end_ms - newest_ms)
        return self._step(end_ms, ended=True)

    def _only_letters(self) -> StreamCheckpoint:
        """Dead letters without a step: what has arrived goes on waiting for one."""
        self._part += 1
        arrived = {name: _CODER.encode(to_batch(concatenate(rows))) for name, rows in self._arrived.items()}
        letters = {DEAD_LETTERS: self._take_letters()}
        return StreamCheckpoint(
            self._stream._settings, b"", self._states or {}, letters, self._now_ms or 0, self._newest_ms, False,
            dict(self._counts), arrived, self._part,
        )  # fmt: skip

    def _take_letters(self) -> bytes:
        letters = b"".join(self._letters)
        self._letters, self._letter_bytes, self._written_s = [], 0, time.monotonic()
        return letters

    def _outputs(self, found: Tables) -> dict[str, bytes]:
        late = []
        for name in [name for name in found if name.startswith("late_")]:
            rows: pa.RecordBatch = to_batch(found[name])
            self._counts[name] += rows.num_rows
            late.append(late_lines(name, rows, self._stream._codebook))
        outputs = {LATE: b"".join(late), DEAD_LETTERS: self._take_letters()}
        outputs = {name: lines for name, lines in outputs.items() if lines}
        examples = found["examples"]
        order = np.lexsort([examples[key] for key in EXAMPLE_ORDER[::-1]])
        outputs["examples"] = _CODER.encode(to_batch(take(examples, order)))
        if self._stream._store is not None:
            stored = {name: rows for name, rows in found.items() if name.startswith("stored_")}
            outputs |= {name: _CODER.encode(to_batch(rows)) for name, rows in stored.items()}
        return outputs

    def _new_stages(self, lateness_ms: int) -> LocalStages:
        return LocalStages(self._stream._schema, self._stream._policy, lateness_ms, self._states)
