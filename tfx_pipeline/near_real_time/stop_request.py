"""StopRequest: ends a loop over windows at SIGINT or SIGTERM, after the window that is under way."""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")


class _Stopped(BaseException):
    """Raised where nothing is under way but waiting."""


class StopRequest:
    """Takes the signals for the length of a `with` block; what was set before comes back then, or at the second one.

    Waiting for the next item is given up at once. That may happen anywhere in what gives the items: use it where a kill
    does no harm.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False
        self._before: dict[int, Any] = {}

    def until_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, until a signal comes."""
        iterator = iter(items)
        try:
            while not self.requested:
                self._waiting = True
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                finally:
                    self._waiting = False
                yield item
        except _Stopped:
            return

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reset()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._reset()
        if self._waiting:
            raise _Stopped

    def _reset(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
