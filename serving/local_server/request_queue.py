"""RequestQueue: computes requests, a bounded number at a time, and refuses what it can't take on."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc

from serving.local_server.serving_error import ServingError

_LEARNED = 0.05
"""Share of the newest in the running mean of how long requests take."""


class RequestQueue:
    """A few threads that compute, and a bounded queue before them. Safe to use from many threads.

    Whoever waits longer than a deadline isn't computed any more. Whoever comes when all places are taken is refused at
    once, and so is who would have to wait longer than its deadline, by how long requests took lately: an overloaded
    server answers some requests in time instead of all of them too late.
    """

    def __init__(self, workers: int, waiting: int, name: str = "requests", *, refuses_early: bool = True) -> None:
        """Starts the threads.

        Args:
            workers: Requests that are computed at the same time.
            waiting: Requests that may wait.
            refuses_early: Whether to refuse what would probably be late. Not where requests differ much in how long
                they take: the mean of the slow would refuse the quick.

        Raises:
            ValueError: There is no worker, or `waiting` is negative.
        """
        if workers < 1 or waiting < 0:
            raise ValueError(f"a queue needs at least 1 worker and 0 places, got {workers} and {waiting}")
        self._workers, self._waiting, self._refuses_early = workers, waiting, refuses_early
        self._lock = threading.Lock()
        self._inside = 0
        self._took_s = 0.0  # a running mean
        self._stopped = False
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Any], float | None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], Any], deadline: float | None = None) -> Future:
        """Puts `work` at the end of the queue; its result, or what it raises, comes with the future.

        A future that is cancelled before its turn isn't computed; one whose turn comes after its deadline fails with a
        ServingError, DEADLINE_EXCEEDED.

        Args:
            deadline: On `time.monotonic`'s clock; None for no limit.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if all places are taken or the deadline would pass before the answer,
                UNAVAILABLE after `stop`.
        """
        with self._lock:
            self._check(deadline)
            self._inside += 1
        future: Future = Future()
        self._jobs.put((future, work, deadline))
        return future

    def check(self, deadline: float | None = None) -> None:
        """Raises what `submit` would raise now, and takes no place."""
        with self._lock:
            self._check(deadline)

    def stop(self) -> None:
        """Takes no more; what was taken is still computed."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)

    def _check(self, deadline: float | None) -> None:
        if self._stopped:
            raise ServingError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
        if self._inside >= self._workers + self._waiting:
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server is overloaded: {self._workers} requests are computed and {self._waiting} wait; "
                "try again later, or add servers",
            )
        if deadline is None or not self._refuses_early:
            return
        # As if all that are inside had just begun. With a worker free nobody is refused: the mean learns anew.
        expected_s = self._took_s * (1 + self._inside / self._workers)
        left_s = deadline - time.monotonic()
        if self._inside >= self._workers and 0 < left_s < expected_s:
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server is overloaded: an answer would take about {expected_s:.2g} s, the deadline is in "
                f"{left_s:.2g} s; try again later, or add servers",
            )

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work, deadline = job
            computed = future.set_running_or_notify_cancel()
            took_s: float | None = None
            result: Any = None
            error: BaseException | None = None
            if computed and deadline is not None and time.monotonic() >= deadline:
                error = ServingError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "the request's deadline passed while it waited for its turn"
                )
            elif computed:
                begin = time.monotonic()
                try:
                    result = work()
                    took_s = time.monotonic() - begin
                except BaseException as raised:  # whoever waits for the future gets it
                    error = raised
            with self._lock:  # before the answer, or whoever gets it and asks again finds its place still taken
                self._inside -= 1
                if took_s is not None:
                    self._took_s += _LEARNED * (took_s - self._took_s)
            if error is not None:
                future.set_exception(error)
            elif computed:
                future.set_result(result)
            del job, future, work, result, error  # an idle worker keeps no request alive
