"""ServedLog: a file of what users were served, one line of JSON a request."""

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from serving.ranking import Ranking

CLICK = "ctr"
"""The task whose score is the predicted click-through rate."""

_SAY_EVERY_S = 60.0

_log = logging.getLogger(__name__)


class ServedLog:
    """Adds a line to a file for each request that a `CanaryClient` answers, or fails to. Safe to share between threads.

    A line is one system call, without waiting for the disk: it outlives the process, not a loss of power. A line that
    can't be written, e.g. on a full disk or for a model that predicts no clicks, is counted as `lost` and told to
    the log; the request goes on. One process writes a file. To begin another one, for instance each hour, give the
    client a new log and close this one.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Opens the file, or begins it.

        Args:
            path: The file, *.jsonl in the folder that `foresight canary outcomes --served` reads.
            clock: Seconds since 1970.

        Raises:
            OSError: It can't be opened.
            ValueError: Another `ServedLog` has it open.
        """
        self.lost = 0
        self._path, self._clock, self._lock = path, clock, threading.Lock()
        self._said_s = -_SAY_EVERY_S
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise ValueError(f"{path}: another log writes to it; give each process a file of its own") from None
        # Behind a line that a loss of power has cut.
        self._is_cut = os.fstat(self._file).st_size > 0

    def ranked(self, experiment: str, ranking: Ranking, fell_back: bool) -> None:
        """Adds the line of a ranking: its time in milliseconds, user, version and each room's click-through rate.

        The line is lost if a room has no score "ctr", or one that isn't a probability.

        Args:
            experiment: Salt of the split that the user was ranked by.
            ranking: The answer.
            fell_back: Whether the stable version answered in the canary's stead.
        """
        try:
            clicks = _clicks(ranking)
        except (TypeError, ValueError) as error:
            with self._lock:
                self._lose(error)
            return
        self._add(experiment, ranking.user_id, {"version": ranking.version, "fell_back": fell_back, CLICK: clicks})

    def failed(self, experiment: str, user_id: int, code: str) -> None:
        """Adds the line of a request that ended with `RankingError.code`."""
        self._add(experiment, user_id, {"error": code})

    def close(self) -> None:
        """Has the disk take the file, and closes it; requests that are still under way are counted as `lost`."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def __enter__(self) -> "ServedLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, experiment: str, user_id: int, said: dict[str, object]) -> None:
        head = {"timestamp_ms": int(self._clock() * 1000), "experiment": experiment, "user_id": int(user_id)}
        line = json.dumps(head | said, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                if self._file is None:
                    raise OSError("the log is closed")
                data = b"\n" + line if self._is_cut else line
                self._is_cut = True
                if os.write(self._file, data) < len(data):
                    raise OSError("only a part of the line was written")
                self._is_cut = False
            except OSError as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.lost += 1
        now_s = time.monotonic()
        if now_s - self._said_s >= _SAY_EVERY_S:
            self._said_s = now_s
            _log.error("%s: %d lines of served rankings are lost so far: %s", self._path, self.lost, error)


def _clicks(ranking: Ranking) -> dict[int, float]:
    """Room -> predicted click-through rate; raises a ValueError that says what a reader couldn't use."""
    clicks: dict[int, float] = {}
    for room in ranking.rooms:
        if CLICK not in room.scores:
            raise ValueError(
                f"version {ranking.version} gives the scores {list(room.scores)}, without {CLICK!r}: a canary is "
                "judged by clicks, and there is nothing to log"
            )
        click = float(room.scores[CLICK])
        if not 0 <= click <= 1:
            raise ValueError(
                f"version {ranking.version} gives room {room.live_id} the score {CLICK} = {click}; it should be a "
                "probability"
            )
        clicks[int(room.live_id)] = click
    return clicks
