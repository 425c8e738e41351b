"""Lineage: which version goes on from which."""

import collections
from typing import Any

_KEPT = 64


class Lineage:
    """Published versions by the number of their weights (see `StreamLearner.number`), and what was rolled back."""

    def __init__(self) -> None:
        self._versions: collections.deque[tuple[int, int]] = collections.deque(maxlen=_KEPT)
        self._dead: collections.deque[tuple[int, int]] = collections.deque(maxlen=_KEPT)

    def published(self, number: int, version: int) -> None:
        """Notes a version; any thread may."""
        self._versions.append((number, version))

    def rolled_back(self, number: int, last: int) -> None:
        """Notes that weights after `number`, up to the last one that there was, are gone on from no more."""
        if number < last and (number, last) not in self._dead:
            self._dead.append((number, last))

    def parent(self, number: int) -> int | None:
        """The newest version that weights of this number go on from; None if none is known."""
        for known, version in reversed(list(self._versions)):
            if known <= number and not any(good < known <= last for good, last in self._dead):
                return version
        return None

    def facts(self) -> dict[str, Any]:
        """All of it, in JSON's types, for `restore`."""
        return {"versions": list(self._versions), "dead": list(self._dead)}

    def restore(self, facts: dict[str, Any]) -> None:
        """Takes up what `facts` gave."""
        for kept, pairs in ((self._versions, facts["versions"]), (self._dead, facts["dead"])):
            kept.clear()
            kept.extend((first, second) for first, second in pairs)
