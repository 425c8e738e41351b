"""LagLimit: whether a loop is too far behind to learn."""

import logging

_log = logging.getLogger(__name__)


class LagLimit:
    """Says of each window why it isn't learned from, if the loop is too far behind: until it has caught up.

    Args:
        limit_s: More is too far, a quarter of it has caught up again; seconds. 0 for no limit.

    Attributes:
        behind: Whether it was too far behind at the last window.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.behind = False

    def reason(self, lag_s: float | None, caught_up: bool) -> str | None:
        """Why the next window is to be skipped; None if it isn't.

        Args:
            lag_s: How long ago its end was, in seconds; None if that can't be told.
            caught_up: Whether all that there was has been read. Then the source is late, not the loop: nothing is won
                by skipping.
        """
        limit_s = self._limit_s
        if lag_s is None or limit_s == 0:
            return None
        if not self.behind and lag_s > limit_s and not caught_up:
            self.behind = True
            _log.warning("%.0f s behind, more than %.0f s: windows are skipped until it has caught up", lag_s, limit_s)
        elif self.behind and (lag_s <= limit_s / 4 or caught_up):
            self.behind = False
            _log.warning("caught up: %.0f s behind", lag_s)
        if not self.behind:
            return None
        return f"{lag_s:.0f} s behind, more than {limit_s:g} s: skipped until it is less than {limit_s / 4:g} s"
