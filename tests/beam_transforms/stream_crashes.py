"""A local stream in a process of its own that is killed at any place, and what it leaves."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import lmdb

from beam_transforms.labels import FastWindow
from beam_transforms.local_stream import CHECKPOINT, LocalStream
from beam_transforms.spans import SpanPlan
from tests.beam_transforms.live_logs import CODEBOOK, SCHEMA, follow


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a stream's folder but the checkpoint, and all entries of the store in it."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    found = {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.startswith("store/") and path.name != CHECKPOINT and not path.name.startswith(".")
    }
    with lmdb.open(str(folder / "store"), readonly=True, lock=False) as store, store.begin() as transaction:
        found |= {f"store {key.hex()}": bytes(value) for key, value in transaction.cursor()}
    return found


class StreamProcess:
    """Runs `LocalStream` over a followed directory in processes that are forked from one with everything imported."""

    def __init__(self, live: Path) -> None:
        self._live = live
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.beam_transforms.stream_crashes"])

    def run(self, folder: Path, calls: int | None = None) -> bool:
        """Goes on with the stream until it ends, or is killed; says whether it ended.

        Args:
            calls: After so many calls and returns, of Python or C, the process kills itself with SIGKILL.
        """
        process = self._context.Process(target=_run, args=(self._live, folder, calls))
        process.start()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the stream ended with {process.exitcode}, expected 0 or {-signal.SIGKILL}")
        return process.exitcode == 0

    def calls(self, folder: Path) -> int:
        """How many calls and returns an undisturbed run takes."""
        process = self._context.Process(target=_run, args=(self._live, folder, sys.maxsize))
        process.start()
        process.join()
        return int((folder / ".calls").read_text())


def _run(live: Path, folder: Path, calls: int | None) -> None:
    left = calls or 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    stream = LocalStream(
        follow(live), folder, SCHEMA, SpanPlan(600_000), FastWindow(60), CODEBOOK, folder / "store", 60_000, shards=2
    )
    if calls is not None:
        sys.setprofile(count)
    stream.run()
    sys.setprofile(None)
    if calls == sys.maxsize:
        (folder / ".calls").write_text(str(calls - left))
