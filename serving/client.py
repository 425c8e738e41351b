"""RankingClient: ranked rooms for a user. Importing it imports no TensorFlow."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol

import numpy as np

from serving.prediction_client import PredictionClient
from serving.ranking import RankedRoom, Ranking
from serving.ranking_error import RankingError


class FeatureStore(Protocol):
    """What the client needs of a store of online features, e.g. `beam_transforms.online_store.OnlineStore`."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the model's outputs, one for each task."""

    def request(self, user_id: int, live_ids: Sequence[int] | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The rooms (B,) to rank, by default all live ones, and the inputs of `serving_default` for them (B, ...).

        Raises KeyError or ValueError for a user or a room that it doesn't know, OSError if it can't be reached.
        """


class RankingClient:
    """Ranks rooms for a user: features from the store, scores from the model server. Safe to share between threads.

    Rooms are ordered by

        score = sum over tasks of weight[task] * scores[task]

    with weight 1 by default. Each task's score is the probability that the event follows an impression of the room,
    whether or not the user enters it first, so the sum is the expected number of (weighted) events that showing the
    room brings; multiplying by the click-through rate once more would count the entry twice. Rooms with equal scores
    stand in the order of their ids.
    """

    def __init__(
        self,
        address: str,
        model_name: str,
        store: FeatureStore,
        *,
        deadline_s: float = 0.5,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Connects at the first request.

        Args:
            address: "host:port" of the model server's gRPC interface.
            model_name: The name under which the server knows the model.
            store: Where features come from.
            deadline_s: Seconds within which a ranking, with reads and retries, succeeds or fails.
            weights: Task -> weight in the overall score; tasks that aren't named count with 1.

        Raises:
            ValueError: An argument is out of range, or a weight is for a task that the store doesn't have.
        """
        unknown = sorted(set(weights or ()) - set(store.tasks))
        if unknown:
            raise ValueError(f"weights for tasks {unknown}, which are not among the store's: {list(store.tasks)}")
        self._client = PredictionClient(address, model_name, deadline_s=deadline_s)
        self._store = store
        self._weights = {task: float((weights or {}).get(task, 1.0)) for task in store.tasks}

    def rank(self, user_id: int, live_ids: Sequence[int] | None = None, limit: int | None = None) -> Ranking:
        """Rooms for `user_id`, best first.

        Args:
            live_ids: The candidates; all rooms that are live now by default.
            limit: Keep at most this many of the best.

        Raises:
            ValueError: The limit is not positive.
            RankingError: Unknown user or room, no server or store, no answer within the deadline, or an answer without
                a finite score for each task and room.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        end = time.monotonic() + self._client.deadline_s
        try:
            rooms, inputs = self._store.request(user_id, live_ids)
        except OSError as error:
            raise RankingError("UNAVAILABLE", f"the features of user {user_id} can't be read: {error}") from error
        except (KeyError, ValueError) as error:
            reason = error.args[0] if error.args else error  # str() of a KeyError would put its text into quotes
            raise RankingError("NOT_FOUND", f"no features to rank rooms for user {user_id}: {reason}") from error
        if len(rooms) == 0:
            return Ranking(user_id, None, ())
        remaining_s = end - time.monotonic()
        if remaining_s <= 0:
            raise RankingError(
                "DEADLINE_EXCEEDED",
                f"reading the features of user {user_id} and {len(rooms)} rooms took the whole deadline of "
                f"{self._client.deadline_s:g} s; ask for fewer rooms or give more time",
            )
        prediction = self._client.predict(inputs, deadline_s=remaining_s)
        scores = {task: self._scores(prediction.outputs, task, len(rooms)) for task in self._weights}
        total = np.zeros(len(rooms))
        for task, weight in self._weights.items():
            total += weight * scores[task]
        order = np.lexsort((rooms, -total))[:limit]
        ranked = tuple(
            RankedRoom(int(rooms[i]), {task: float(scores[task][i]) for task in scores}, float(total[i])) for i in order
        )
        return Ranking(user_id, prediction.version, ranked)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> "RankingClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _scores(self, outputs: dict[str, np.ndarray], task: str, rooms: int) -> np.ndarray:
        """(B,) scores of one task, checked: a NaN would make the order meaningless without anyone noticing."""
        if task not in outputs:
            raise RankingError(
                "FAILED_PRECONDITION",
                f"model {self._client.model_name!r} has no output {task!r}, only {sorted(outputs)}; "
                "model and store were made from different schemas",
            )
        scores = outputs[task]
        if scores.dtype.kind not in "fiu" or scores.shape not in ((rooms,), (rooms, 1)):
            problem = f"has type {scores.dtype} and shape {scores.shape}"
        elif not np.isfinite(scores).all():
            problem = f"has {np.count_nonzero(~np.isfinite(scores))} entries that are not finite"
        else:
            return scores.reshape(rooms).astype(np.float64)
        raise RankingError(
            "INTERNAL",
            f"output {task!r} of model {self._client.model_name!r} {problem}; expected {rooms} finite scores",
        )
