"""OutcomeStream: served rankings and live events -> what came of the impressions, as lines of JSON."""

import collections
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import filelock
import numpy as np
from apache_beam.io.unbounded_source import UnboundedReader
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP

from beam_transforms.columnar import Columns, take, to_batch, to_columns
from beam_transforms.event_lines import ParsedLines
from beam_transforms.outcome_lines import outcome_lines
from beam_transforms.outcome_stage import OutcomeStage
from beam_transforms.read_events import DEAD_LETTERS
from beam_transforms.schema import WINDOW_MS, EventKind
from beam_transforms.served_files import Place, ServedFiles
from beam_transforms.sources.live_source import LiveSource
from beam_transforms.stage import LATENESS_MS, advance
from beam_transforms.stage_state import decode_state, encode_state
from beam_transforms.stream_checkpoint import StreamCheckpoint
from beam_transforms.streamed_lines import LATE, dead_letter_line, late_lines, write_lines
from beam_transforms.window_files import file_name, remove_temporaries

CHECKPOINT = "outcomes.checkpoint"
"""The checkpoint's file, beside the outcomes."""

LATE_RANKINGS = "late_rankings"
"""The folder of served lines that came when labels of their time were known, beside the outcomes."""

_LOCK = ".lock"
_OUTCOMES = "outcomes"
_KEPT = (LATE, LATE_RANKINGS, DEAD_LETTERS)
_STAGE, _PLACES, _NAMES = "stage", "places", "names"


class OutcomeStream:
    """Reads served rankings and live events, and writes outcomes that `serving.canary.outcomes.read_outcomes` reads.

    What is joined with what says `OutcomeStage`. Each time the watermark of the events passes a window's end, what
    became known is written: `<folder>/<window>-00000-of-00001.jsonl`, and beside it in the folders `dead_letters`,
    `late` and `late_rankings` what can't be read or came too late. It goes into a checkpoint first, with all that is
    needed to go on: a process that is killed at any moment writes the same files again, and each outcome stands in one
    of them once.

    Labels that aren't known where reading stops wait for the next run. When a source ends, as those of replays do,
    labels that are known by the newest event are written, and the rest never are.

    Args:
        source: All of it is read here.
        served: File or folder of served rankings, see `ServedFiles`.
        folder: Where the outcomes go: one of its own. One process may use it at a time.
        horizon_s, attribution_s: See `OutcomeStage`.
        lateness_ms: How much later than the watermark an event may come.
        poll_s: Seconds between looks at a source that had nothing new.
        clock: Event time now in seconds since 1970, see `StreamClock.event_now_s`; rankings later than it are dead
            letters, see `ServedFiles`.

    Raises:
        ValueError: If served rankings lie where the outcomes go.
    """

    def __init__(
        self,
        source: LiveSource,
        served: Path,
        folder: Path,
        horizon_s: float = 300.0,
        attribution_s: float = 600.0,
        lateness_ms: int = LATENESS_MS,
        poll_s: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._served, self._folder = source, Path(served), Path(folder)
        self._lateness_ms, self._poll_s, self._clock = lateness_ms, poll_s, clock
        read = self._served.resolve()
        if self._folder.resolve() == (read.parent if read.is_file() else read):
            raise ValueError(f"{served}: served rankings are where outcomes go; give outcomes a folder of their own")
        self._stage = OutcomeStage(horizon_s, attribution_s)
        self._settings = {
            "horizon_ms": self._stage.horizon_ms,
            "attribution_ms": self._stage.attribution_ms,
            "lateness_ms": lateness_ms,
            "source": source.place,
            "served": str(read),
        }

    def windows(self, idle_s: float | None = None) -> Iterator[Mapping[str, int]]:
        """Reads on from the checkpoint, and gives all counts so far after each window that was written.

        The first after a restart are those of the last window of before, once more.

        Args:
            idle_s: Stop when there was nothing new for so long; None reads until the source has ended.

        Raises:
            FileNotFoundError: If there is nothing at `served`.
            RuntimeError: If another process uses the folder.
            ValueError: If the checkpoint can't be read or has other settings, which source and `served` are among.
            SourceError: If the source can't go on where the checkpoint says.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            held = filelock.FileLock(self._folder / _LOCK).acquire(timeout=0)
        except filelock.Timeout as error:
            raise RuntimeError(
                f"another process writes outcomes to {self._folder} (it holds {self._folder / _LOCK}); stop it, or "
                "take another folder"
            ) from error
        with held:
            yield from self._windows(idle_s)

    def _windows(self, idle_s: float | None) -> Iterator[Mapping[str, int]]:
        path = self._folder / CHECKPOINT
        last = StreamCheckpoint.load(path, self._settings)
        for folder in (self._folder, *(self._folder / name for name in _KEPT)):
            remove_temporaries(folder)
        if last is not None:
            self._write(last)
            yield last.counts
            if last.ended:
                return
        coder = self._source.get_checkpoint_mark_coder()
        (source,) = self._source.split(1)
        steps = _Steps(self, last)
        reader = source.create_reader(None, coder.decode(last.mark) if last is not None else None)
        try:
            for step in steps.over(reader, idle_s):
                mark = reader.get_checkpoint_mark()
                checkpoint = dataclasses.replace(step, mark=coder.encode(mark))
                checkpoint.save(path)
                mark.finalize_checkpoint()
                self._write(checkpoint)
                yield checkpoint.counts
        finally:
            reader.close()

    def _write(self, checkpoint: StreamCheckpoint) -> None:
        name = f"{file_name(checkpoint.now_ms, 0, 1)}.jsonl"
        for output, lines in checkpoint.outputs.items():
            write_lines((self._folder if output == _OUTCOMES else self._folder / output) / name, [lines])


class _Steps:
    """Rows of a source and of served rankings, a step each time the watermark passes a window's end."""

    def __init__(self, stream: OutcomeStream, last: StreamCheckpoint | None) -> None:
        self._stream, self._stage = stream, stream._stage
        states = last.states if last is not None else {_PLACES: b"{}", _NAMES: b"[]"}
        self._state = decode_state(self._stage, states.get(_STAGE))
        places = {name: Place(*place) for name, place in json.loads(states[_PLACES]).items()}
        self._served = ServedFiles(stream._served, places, json.loads(states[_NAMES]), stream._clock)
        self._now_ms = last.now_ms if last is not None else None
        self._newest_ms = last.newest_ms if last is not None else None
        self._counts = collections.Counter(last.counts if last is not None else {})
        self._arrived: dict[str, list[Columns]] = {"events": [], "served": []}
        self._lines: dict[str, list[bytes]] = {name: [] for name in _KEPT}

    def over(self, reader: UnboundedReader, idle_s: float | None) -> Iterator[StreamCheckpoint]:
        there, came_s = reader.start(), time.monotonic()
        while True:
            if there:
                self._take(reader.get_current())
                came_s = time.monotonic()
            watermark = reader.get_watermark()
            if watermark == MAX_TIMESTAMP:
                if self._newest_ms is not None or any(self._lines.values()):
                    yield self._last_step()
                return
            if watermark != MIN_TIMESTAMP:
                end_ms = watermark.micros // 1000 // WINDOW_MS * WINDOW_MS
                if self._now_ms is None or end_ms > self._now_ms:
                    yield self._step(end_ms, self._stream._lateness_ms)
            if not there:
                if idle_s is not None and time.monotonic() - came_s >= idle_s:
                    return
                time.sleep(self._stream._poll_s)
            there = reader.advance()

    def _take(self, parsed: ParsedLines) -> None:
        self._keep_dead_letters([dataclasses.asdict(letter) for letter in parsed.dead_letters])
        if parsed.newest_ms is not None:
            self._newest_ms = max(parsed.newest_ms, self._newest_ms or parsed.newest_ms)
        if parsed.events is not None:
            events = to_columns([parsed.events])
            self._counts["events"] += len(events["kind"])
            needed = np.isin(events["kind"], (EventKind.EXPOSURE, EventKind.ENTER))
            self._arrived["events"].append(take(events, np.flatnonzero(needed)))

    def _take_served(self, until_ms: int) -> None:
        settled_ms = self._state.clock.settled_ms
        for block in self._served.read(until_ms):
            parsed = block.parsed
            self._keep_dead_letters([dataclasses.asdict(letter) for letter in parsed.dead_letters])
            self._counts["rankings"] += parsed.rankings
            self._counts["unshown"] += parsed.empty
            late = parsed.rows["timestamp_ms"] + self._stage.horizon_ms <= settled_ms
            late_rows = np.unique(parsed.lines[late])
            self._counts[LATE_RANKINGS] += len(late_rows)
            self._lines[LATE_RANKINGS] += [block.text[row] + b"\n" for row in late_rows.tolist()]
            self._arrived["served"].append(take(parsed.rows, np.flatnonzero(~late)))

    def _keep_dead_letters(self, letters: list[dict[str, object]]) -> None:
        self._counts[DEAD_LETTERS] += len(letters)
        self._lines[DEAD_LETTERS] += [dead_letter_line(letter) for letter in letters]

    def _step(self, end_ms: int, lateness_ms: int, ended: bool = False) -> StreamCheckpoint:
        self._take_served(end_ms)
        self._state, found = advance(self._stage, self._state, self._arrived, end_ms, lateness_ms)
        self._now_ms, self._arrived = end_ms, {"events": [], "served": []}
        if "late_events" in found:
            self._lines[LATE].append(late_lines("late_events", to_batch(found["late_events"])))
        for name, rows in found.items():
            self._counts[name] += len(rows["timestamp_ms"])
        self._counts["waiting"] = self._stage.waiting(self._state)
        lines = {_OUTCOMES: outcome_lines(found, self._served.names), **self._lines}
        outputs = {name: b"".join(parts) for name, parts in lines.items() if parts}
        self._lines = {name: [] for name in _KEPT}
        states = {
            _STAGE: encode_state(self._state),
            _PLACES: json.dumps(self._served.places).encode(),
            _NAMES: json.dumps(self._served.names).encode(),
        }
        return StreamCheckpoint(
            self._stream._settings, b"", states, outputs, end_ms, self._newest_ms, ended, dict(self._counts)
        )

    def _last_step(self) -> StreamCheckpoint:
        """Nothing comes late any more: labels are final up to the newest event."""
        newest_ms = self._newest_ms or 0
        end_ms = newest_ms // WINDOW_MS * WINDOW_MS + WINDOW_MS
        if self._now_ms is not None:
            newest_ms = max(newest_ms, self._now_ms - self._stream._lateness_ms)
            end_ms = max(end_ms, self._now_ms + WINDOW_MS)
        return self._step(end_ms, end_ms - newest_ms, ended=True)
