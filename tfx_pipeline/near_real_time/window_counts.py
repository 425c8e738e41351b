"""WindowCounts: what became of windows and of their examples, in numbers."""

from collections.abc import Mapping
from typing import Any

_NAMES = ("trained", "rolled_back", "dropped", "skipped", "empty", "stopped")

_KEPT = 2880  # windows: a day


class WindowCounts:
    """How many windows, and examples of them, were learned from, rolled back and so on. Each counts once, by its end.

    Attributes:
        windows: "trained", "rolled_back", "dropped", "skipped", "empty" or "stopped" -> number of windows.
        examples: The same of their examples.
    """

    def __init__(self) -> None:
        self.windows, self.examples = dict.fromkeys(_NAMES, 0), dict.fromkeys(_NAMES, 0)
        self._trained: list[tuple[int, int]] = []  # number and examples of windows that may still be taken back

    def add(self, name: str, examples: int, windows: int = 1) -> None:
        """Counts windows of which nothing is in the weights."""
        self.windows[name] += windows
        self.examples[name] += examples

    def trained(self, number: int, examples: int, settled: int) -> None:
        """Counts a window that was learned from.

        Args:
            number: Of the weights that learned from it first, see `StreamLearner.number`.
            examples: Its examples.
            settled: Windows up to this number are not taken back any more.
        """
        self._trained = [*(entry for entry in self._trained if entry[0] > settled), (number, examples)][-_KEPT:]
        self.add("trained", examples)

    def take_back(self, number: int, name: str) -> int:
        """Counts windows that were learned from after this number under another name; gives how many there are."""
        taken = [examples for found, examples in self._trained if found > number]
        self._trained = [entry for entry in self._trained if entry[0] <= number]
        self.add("trained", -sum(taken), -len(taken))
        self.add(name, sum(taken), len(taken))
        return len(taken)

    def facts(self) -> dict[str, Any]:
        """All of it, in JSON's types, for `restore`."""
        return {"windows": self.windows, "examples": self.examples, "trained": self._trained}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Takes up what `facts` gave."""
        self.windows = {name: facts["windows"][name] for name in _NAMES}
        self.examples = {name: facts["examples"][name] for name in _NAMES}
        self._trained = [(number, examples) for number, examples in facts["trained"]]
