"""RoomScores: what one version says of the rooms of a request."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from serving.ranking_error import RankingError


@dataclasses.dataclass(frozen=True)
class RoomScores:
    """Scores of R rooms by one version.

    Attributes:
        scores: (tasks, R) float64.
        by_foresight: (R,) bool: which were scored with a stored foresight vector; the others by `serving_default`.
    """

    version: int
    scores: np.ndarray
    by_foresight: np.ndarray


def checked_scores(outputs: Mapping[str, np.ndarray], tasks: Sequence[str], rooms: int, model_name: str) -> np.ndarray:
    """(tasks, R) float64 of a model's outputs, checked: a NaN would make the order meaningless, and nobody would know.

    Raises:
        RankingError: An output is missing, or isn't a finite number for each room.
    """
    scores = np.empty((len(tasks), rooms))
    for row, task in enumerate(tasks):
        if task not in outputs:
            raise RankingError(
                "FAILED_PRECONDITION",
                f"model {model_name!r} has no output {task!r}, only {sorted(outputs)}; "
                "model and store were made from different schemas",
            )
        values = outputs[task]
        if values.dtype.kind not in "fiu" or values.shape not in ((rooms,), (rooms, 1)):
            raise _unusable(task, model_name, f"has type {values.dtype} and shape {values.shape}", rooms)
        scores[row] = values.reshape(rooms)
    finite = np.isfinite(scores)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        problem = f"has {rooms - np.count_nonzero(finite[row])} entries that are not finite"
        raise _unusable(tasks[row], model_name, problem, rooms)
    return scores


def _unusable(task: str, model_name: str, problem: str, rooms: int) -> RankingError:
    return RankingError(
        "INTERNAL", f"output {task!r} of model {model_name!r} {problem}; expected {rooms} finite scores"
    )
