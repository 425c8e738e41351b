"""How much memory a process and its children hold."""

import threading
import time

import psutil

_FIRST_S = 1.0


class PeakMemory:
    """Largest resident memory of this process and all its children while the `with` block runs.

    Attributes:
        megabytes: The peak so far, in MB of 10^6 bytes. Pages that processes share count once for each, so a child
            is left out in its first second: until it has become another program, its pages are its parent's.
    """

    def __init__(self, every_s: float = 0.25) -> None:
        self.megabytes = 0.0
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(self._every_s):
            held = 0
            for member in (process, *process.children(recursive=True)):
                try:
                    if member is process or time.time() - member.create_time() > _FIRST_S:
                        held += member.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # it ended since it was listed
            self.megabytes = max(self.megabytes, held / 1e6)
