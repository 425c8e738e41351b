"""Replay: a log as a live source, written into a followed directory in real time."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.followed_directory import SUFFIX
from beam_transforms.sources.source import Source, SourceError
from beam_transforms.sources.time_sorted_log import TimeSortedLog

END_NAME = "END"
"""The file that says that the replay is over: `end_name` of the `FollowedDirectory` that reads it."""

CLOCK_NAME = "replay.json"
"""The file that tells the pace, see `Replay`."""

_TICK_S = 1.0
_TELL_EVERY_S = 10.0
_SPEEDS = (1e-6, 1e9)


@dataclasses.dataclass(frozen=True)
class ReplayReport:
    """What a replay wrote.

    Attributes:
        rows: Rows by kind: `events`, `segments` and `products`.
        dead_letters: Rows of the source that can't be read; they aren't replayed.
        files: Files written.
        first_ms: Event time of the first row as it was written, milliseconds since the epoch.
        last_ms: The same of the last row.
        shift_ms: What was added to every time.
        late_files: Files that were written more than a second after they were due.
        worst_lag_s: How late the latest of them was; 0 without a pace.
        wall_seconds: From the first file's beginning to the end.
    """

    rows: dict[str, int]
    dead_letters: int
    files: int
    first_ms: int
    last_ms: int
    shift_ms: int
    late_files: int
    worst_lag_s: float
    wall_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain types; times rounded to milliseconds."""
        rounded = {name: round(getattr(self, name), 3) for name in ("worst_lag_s", "wall_seconds")}
        return dataclasses.asdict(self) | rounded


class Replay:
    """Writes the rows of a source as lines of live events into a folder that a `FollowedDirectory` follows.

    A file holds what happens in one second of the wall clock, which is `speed` seconds of event time, in the order of
    event time; it appears whole at the end of that second. (Event time is cut at whole milliseconds: at odd speeds that
    second is a little more or less, and at speeds below .0005 longer.) A second without a row has no file. Nothing is
    dropped: a replay that can't keep up writes file after file without waiting, says how far it is behind, and catches
    up when it can. The last row is followed by a file `END`.

    With `shift`, times are moved by a multiple of 30 s, so that windows keep their content, to the first such moment
    from now on, and the replay waits for it: at speed 1 an event then happens when the wall clock says so. At a higher
    speed event time runs ahead of the wall clock from that moment on, at a lower one it falls behind; `replay.json` in
    the folder says how far: the event at t happens at `started_ms` + (t - `first_ms`) / `speed` of the wall clock.
    Readers that refuse times from the future have to be told (`future_ms=None`).

    Speed 0 doesn't wait: each file holds 30 s of event time, and they appear as fast as they can be written.

    A killed replay leaves whole files and no `END`; begin anew in another folder.

    Args:
        source: Where the rows come from.
        folder: Where the files go; created if it isn't there.
        speed: Seconds of event time in a second of the wall clock, or 0.
        shift: Whether times are moved to now.
        from_ms: Rows earlier than this, by the source's time, are left out.
        until_ms: Rows at this time or later are left out.
        tell: Called with a line of text now and then: how many rows there are, and when it falls behind.
        clock: Seconds since 1970.
        sleep: Waits for some seconds.

    Raises:
        ValueError: If the speed isn't 0 and not from 1e-6 to 1e9.
    """

    def __init__(
        self,
        source: Source,
        folder: Path,
        speed: float = 1.0,
        shift: bool = False,
        *,
        from_ms: int | None = None,
        until_ms: int | None = None,
        tell: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if speed and not _SPEEDS[0] <= speed <= _SPEEDS[1]:
            raise ValueError(f"speed must be 0 (as fast as possible) or a number from 1e-6 to 1e9, got {speed}")
        self._source, self._folder, self._speed, self._shift = source, Path(folder), speed, shift
        self._from_ms, self._until_ms = from_ms, until_ms
        self._tell = tell or (lambda line: None)
        self._clock, self._sleep = clock, sleep
        self._told_s = -math.inf

    def run(self) -> ReplayReport:
        """Writes everything; returns once the last file and `END` are there.

        Raises:
            SourceError: If the source has no row in the time asked for.
            ValueError: If the folder already holds files of live events.
        """
        self._prepare()
        with TimeSortedLog(self._source, self._from_ms, self._until_ms) as log:
            if log.first_ms is None or log.last_ms is None:
                raise SourceError(
                    f"there is nothing to replay: {log.dead_letters} rows can't be read, no other row lies in "
                    f"[{self._from_ms}, {self._until_ms}) ms; widen the time or check the input"
                )
            shift_ms, started_s = self._begin(log.first_ms)
            self._tell(_said(log, shift_ms))
            length_ms = max(1, round(1000 * _TICK_S * self._speed)) if self._speed else WINDOW_MS
            files = late_files = 0
            worst_lag_s = 0.0
            for number, lines in log.slices(length_ms, shift_ms):
                lag_s = 0.0
                if self._speed:
                    # Not `number` ticks: a file holds whole milliseconds, which may be a little less than a second's.
                    lag_s = self._wait_until(started_s + (number + 1) * length_ms / 1000 / self._speed)
                self._write(f"{number:09d}{SUFFIX}", lines)
                files += 1
                late_files += lag_s > _TICK_S
                worst_lag_s = max(worst_lag_s, lag_s)
            self._write(END_NAME, b"")
            return ReplayReport(
                rows=log.rows,
                dead_letters=log.dead_letters,
                files=files,
                first_ms=log.first_ms + shift_ms,
                last_ms=log.last_ms + shift_ms,
                shift_ms=shift_ms,
                late_files=late_files,
                worst_lag_s=worst_lag_s,
                wall_seconds=self._clock() - started_s,
            )

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        there = sorted(path.name for path in self._folder.iterdir() if path.name.endswith((SUFFIX, END_NAME)))
        if there:
            raise ValueError(
                f"{self._folder} already holds {there[0]}: files of a followed directory are read once, in the order "
                "of their names; choose another folder or empty this one"
            )

    def _begin(self, first_ms: int) -> tuple[int, float]:
        """How far times are moved, and when, in seconds since 1970, the first row happens."""
        now_s = self._clock()
        shift_ms, started_s = 0, now_s
        if self._shift:
            shift_ms = -(-(math.ceil(now_s * 1000) - first_ms) // WINDOW_MS) * WINDOW_MS
            if self._speed:
                started_s = (first_ms + shift_ms) / 1000
        pace = {
            "first_ms": first_ms + shift_ms,
            "shift_ms": shift_ms,
            "speed": self._speed,
            "started_ms": round(started_s * 1000),
        }
        self._write(CLOCK_NAME, json.dumps(pace).encode() + b"\n")
        return shift_ms, started_s

    def _wait_until(self, due_s: float) -> float:
        """Waits; returns by how many seconds it is too late for that, and says so now and then."""
        while (left_s := due_s - self._clock()) > 0:
            self._sleep(left_s)
        if -left_s > _TICK_S and self._clock() - self._told_s >= _TELL_EVERY_S:
            self._told_s = self._clock()
            self._tell(f"the replay is {-left_s:.1f} s behind at speed {self._speed:g}; nothing is left out")
        return -left_s

    def _write(self, name: str, data: bytes) -> None:
        beside = self._folder / f".{name}"
        beside.write_bytes(data)
        beside.replace(self._folder / name)


def _said(log: TimeSortedLog, shift_ms: int) -> str:
    rows = ", ".join(f"{count:,} {kind}" for kind, count in log.rows.items())
    left_out = f"; {log.dead_letters:,} rows can't be read and are left out" if log.dead_letters else ""
    return f"{rows}, times moved by {shift_ms / 1000:+,.0f} s{left_out}"
