"""Holds rows back until no earlier one can follow."""

from collections.abc import Mapping

import numpy as np


class TimeOrderedBuffer:
    """Rows of one table, given in any order and taken in order of time."""

    def __init__(self, time: str) -> None:
        """`time` names the column (ms) to order by."""
        self._time = time
        self._pending: list[Mapping[str, np.ndarray]] = []

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        if len(columns[self._time]):
            self._pending.append(columns)

    def take(self, before_ms: int) -> dict[str, np.ndarray]:
        """Removes and returns the rows before `before_ms`, oldest first; empty if there are none."""
        if not self._pending:
            return {}
        columns = {name: np.concatenate([part[name] for part in self._pending]) for name in self._pending[0]}
        ready = columns[self._time] < before_ms
        order = np.flatnonzero(ready)
        order = order[np.argsort(columns[self._time][order], kind="stable")]
        later = np.flatnonzero(~ready)
        self._pending = [{name: column[later] for name, column in columns.items()}] if len(later) else []
        return {name: column[order] for name, column in columns.items()}
