"""CanaryClient: ranks each user by the version of their side."""

import time
from collections.abc import Sequence

from serving.canary.served_log import ServedLog
from serving.canary.split import CANARY, CanarySplit
from serving.client import STABLE, RankingClient
from serving.ranking import Ranking
from serving.ranking_error import RankingError

_CANARY_FAILED = ("NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "INTERNAL", "DEADLINE_EXCEEDED")
_CANARY_PART = 0.5  # of the deadline: the rest is for the stable version


class CanaryClient:
    """Ranks each user by the version of their side of a split. Safe to share between threads.

    Where the new version is withdrawn, answers with an error of its own, or doesn't answer within half the deadline,
    the stable version does, within the same deadline. `Ranking.label` and `Ranking.version` tell which one did. The
    user stays on the side of the canary all the same: outcomes say that the canary "fell_back", see
    `serving.canary.outcomes.read_outcomes`.
    """

    def __init__(
        self,
        client: RankingClient,
        split: CanarySplit,
        *,
        deadline_s: float = 0.5,
        served_log: ServedLog | None = None,
    ) -> None:
        """Shares `client` and `served_log`, which it doesn't close.

        Args:
            client: What ranks.
            split: Who gets the new version, e.g. `Canary.split`; it may be replaced while requests run.
            deadline_s: Seconds within which a ranking succeeds or fails.
            served_log: Where each ranking and each failure goes, for `foresight canary outcomes`; it may be replaced
                while requests run.

        Raises:
            ValueError: The deadline isn't positive.
        """
        if not deadline_s > 0:
            raise ValueError(f"deadline_s must be a positive number of seconds, got {deadline_s!r}")
        self.split, self.served_log = split, served_log
        self._client, self._deadline_s = client, deadline_s

    def rank(self, user_id: int, live_ids: Sequence[int] | None = None, limit: int | None = None) -> Ranking:
        """Rooms for a user, best first; arguments and errors are those of `RankingClient.rank`.

        The log holds all rooms of the ranking: ask for no more than may be shown. What it can't take costs no answer.
        """
        split, served_log = self.split, self.served_log
        label = split.label(user_id)
        try:
            ranking = self._rank(user_id, live_ids, limit, label)
        except RankingError as error:
            if served_log is not None:
                served_log.failed(split.salt, user_id, error.code)
            raise
        if served_log is not None:
            served_log.ranked(split.salt, ranking, fell_back=ranking.label != label)
        return ranking

    def _rank(self, user_id: int, live_ids: Sequence[int] | None, limit: int | None, label: str) -> Ranking:
        end = time.monotonic() + self._deadline_s
        if label == CANARY:
            try:
                canary_s = _CANARY_PART * self._deadline_s
                return self._client.rank(user_id, live_ids, limit, label=CANARY, deadline_s=canary_s)
            except RankingError as error:
                remaining_s = end - time.monotonic()
                if error.code not in _CANARY_FAILED or remaining_s <= 0:
                    raise
                return self._client.rank(user_id, live_ids, limit, label=STABLE, deadline_s=remaining_s)
        return self._client.rank(user_id, live_ids, limit, label=STABLE, deadline_s=self._deadline_s)
