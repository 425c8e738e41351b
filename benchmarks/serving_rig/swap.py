"""Swap: when what happened while one version took the place of another."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Swap:
    """Moments on `time.time`'s clock.

    Attributes:
        pushed_s: The push began.
        appeared_s: The version appeared on the disk.
        loading_s: The server was seen to know of it: it loads, at the latest.
        available_s: It was seen to be available.
        unloaded_s: The version that had to go was seen to be gone.
        promoted_s: All live rooms had vectors of it and readers had moved on to it; without a promotion `unloaded_s`.
    """

    version: int
    pushed_s: float
    appeared_s: float
    loading_s: float
    available_s: float
    unloaded_s: float
    promoted_s: float
