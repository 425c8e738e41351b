"""Caller: requests to a server from a process of their own."""

import multiprocessing
from types import TracebackType
from typing import Any

from benchmarks.serving_rig.calls import answer
from benchmarks.serving_rig.rig import ServingRig

_END_S = 30.0


class Caller:
    """A process that does what `Calls` can; a context manager that ends it.

    Args:
        rig: Whom it calls.
    """

    def __init__(self, rig: ServingRig) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._count = context.Value("q", 0)
        self._connection, other = context.Pipe()
        arguments = (rig.server.address, str(rig.location), rig.recipe.candidates, rig.recipe.users)
        shared = {"count": self._count, "stop": self._stop}
        self._process = context.Process(target=answer, args=(other, arguments, shared), daemon=True)
        self._process.start()
        other.close()
        self.finish()

    @property
    def count(self) -> int:
        """Rankings that `rank_on` has done so far."""
        return self._count.value

    def stop(self) -> None:
        """Ends `rank_on`."""
        self._stop.set()

    def call(self, method: str, **arguments: Any) -> Any:
        """Result of a method of `Calls`."""
        self.begin(method, **arguments)
        return self.finish()

    def begin(self, method: str, **arguments: Any) -> None:
        """Starts what `call` does; `finish` gives its result."""
        self._connection.send((method, arguments))

    def finish(self) -> Any:
        """Result of what was begun.

        Raises:
            RuntimeError: The process ended before.
        """
        try:
            return self._connection.recv()
        except EOFError as error:
            self._process.join(_END_S)
            raise RuntimeError(
                f"the caller's process ended with status {self._process.exitcode}; its error output says why"
            ) from error

    def __enter__(self) -> "Caller":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if kind is None and self._process.is_alive():
            self._connection.send(None)
            self._process.join(_END_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._connection.close()
