"""WeightFiles: weights with the optimizer's state, each in a file of its own."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from beam_transforms.window_files import remove_temporaries
from tfx_pipeline.near_real_time.trainer import StreamTrainer

_PATTERN = "weights-*.state"


@dataclasses.dataclass
class Weights:
    """Weights with the optimizer's state, and what they have learned from.

    Attributes:
        number: Grows with each window that is learned from; the base has 0. Two of one number are equal.
        newest_event_ms: The newest event that they have learned from; None for random ones.
        state: See `StreamTrainer.state`.
    """

    number: int
    newest_event_ms: int | None
    state: Sequence[np.ndarray]


class WeightFiles:
    """Files of weights in a folder, by their number.

    Args:
        folder: The folder; it is made.
        trainer: Whose weights they are.
    """

    def __init__(self, folder: Path, trainer: StreamTrainer) -> None:
        self._folder, self._trainer = folder, trainer
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, weights: Weights) -> None:
        """Writes what isn't there yet."""
        path = self._path(weights.number)
        if not path.exists():
            self._trainer.save(path, {"newest_event_ms": weights.newest_event_ms}, state=weights.state)

    def load(self, number: int) -> Weights:
        """Reads weights; the trainer has them then.

        Raises:
            ValueError: If the file is damaged, or of another model.
            OSError: If it is missing.
        """
        facts, _ = self._trainer.restore(self._path(number))
        return Weights(number, facts["newest_event_ms"], self._trainer.state())

    def keep(self, numbers: Collection[int]) -> None:
        """Removes all others, and what killed processes left half-written in the folder."""
        kept = {self._path(number) for number in numbers}
        for path in set(self._folder.glob(_PATTERN)) - kept:
            path.unlink()
        remove_temporaries(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / _PATTERN.replace("*", str(number))
