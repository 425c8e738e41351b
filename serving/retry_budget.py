"""RetryBudget: how much a client may try again."""

import threading
import time
from collections.abc import Callable


class RetryBudget:
    """A bucket of tokens that bounds retries by calls, so that clients don't multiply an overload.

    It begins full with `burst` tokens. Each call puts `ratio` of a token in and each second `per_second`, up to
    `burst`; each retry takes one out. So within any time of t seconds in which c calls are made,

        retries <= burst + ratio * c + per_second * t

    `per_second` is for clients with few calls: they too find a server that was started again. Safe to share between
    threads.
    """

    def __init__(
        self,
        ratio: float = 0.1,
        burst: float = 10.0,
        per_second: float = 2.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with a full bucket.

        Args:
            ratio: Retries a call, in the long run.
            burst: Retries at once, after a time without trouble.
            per_second: Retries a second, however few the calls are.
            clock: Seconds that never run backwards.

        Raises:
            ValueError: A number is negative, or `burst` is less than one retry.
        """
        if not (ratio >= 0 and burst >= 1 and per_second >= 0):
            raise ValueError(
                "a retry budget needs ratio >= 0, burst >= 1 and per_second >= 0, got "
                f"ratio {ratio!r}, burst {burst!r}, per_second {per_second!r}"
            )
        self.ratio, self.burst, self.per_second = ratio, burst, per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens, self._filled = burst, clock()

    def note_call(self) -> None:
        """Counts a call, its first attempt."""
        with self._lock:
            self._fill(self.ratio)

    def take(self) -> bool:
        """Takes the token for a retry; False if there is none, then the call has to fail."""
        with self._lock:
            self._fill(0.0)
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def _fill(self, tokens: float) -> None:
        now = self._clock()
        self._tokens = min(self._tokens + tokens + (now - self._filled) * self.per_second, self.burst)
        self._filled = now
