"""RankingClient: ranked rooms for a user. Importing it imports no TensorFlow."""

import contextlib
import operator
import reprlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from serving.feature_store import FeatureStore, StoredRequest
from serving.prediction_client import PredictionClient
from serving.ranking import RankedRoom, Ranking
from serving.ranking_error import RankingError
from serving.retry_budget import RetryBudget
from serving.room_scores import RoomScores, checked_scores
from serving.server_channel import check_deadline

STABLE = "stable"
"""Label of the version that everyone is served by unless something else is asked for."""

_MAX_ID = 2**63 - 1


class RankingClient:
    """Ranks rooms for a user: features from the store, scores from the model server. Safe to share between threads.

    Rooms are ordered by

        score = sum over tasks of weight[task] * scores[task]

    with weight 1 by default. Each task's score is the probability that the event follows an impression of the room,
    whether or not the user enters it first, so the sum is the expected number of (weighted) events that showing the
    room brings; multiplying by the click-through rate once more would count the entry twice. Rooms with equal scores
    stand in the order of their ids.

    A ranking is computed by one version. One read of the store tells which, with the features and the foresight vectors
    of that version. Rooms that have a vector go to the signature `rank`, those that have none yet to `serving_default`
    of the same version, and the answers are merged. If the server has unloaded the version meanwhile, the store is read
    once more; if it still says the same, nobody keeps vectors up to date (see `foresight rooms`), and `serving_default`
    of the newest version (of the label's, if it is another than "stable") scores all rooms, as it does for a store
    without vectors.
    """

    def __init__(
        self,
        address: str,
        model_name: str,
        store: FeatureStore,
        *,
        deadline_s: float = 0.5,
        weights: Mapping[str, float] | None = None,
        root_certificates: bytes | Path | None = None,
        retry_budget: RetryBudget | None = None,
    ) -> None:
        """Connects at the first request.

        Args:
            address: "host:port" of the model server's gRPC interface.
            model_name: The name under which the server knows the model.
            store: Where features come from.
            deadline_s: Seconds within which a ranking, with reads and retries, succeeds or fails; at most a day. A read
                of the store isn't cut off by it, but by the store's own timeout; see `RedisStore`.
            weights: Task -> weight in the overall score, finite; tasks that aren't named count with 1.
            root_certificates: PEM certificates of the server's authority, or their file, for TLS.
            retry_budget: Bounds retries; by default `RetryBudget()`: in the long run one for each ten requests.

        Raises:
            ValueError: An argument is out of range, or a weight is for a task that the store doesn't have.
            OSError: The file of certificates can't be read.
        """
        tasks = tuple(store.tasks)
        unknown = sorted(set(weights or ()) - set(tasks))
        if unknown:
            raise ValueError(f"weights for tasks {unknown}, which are not among the store's: {list(tasks)}")
        self._weights = np.array([float((weights or {}).get(task, 1.0)) for task in tasks])
        if not np.isfinite(self._weights).all():
            raise ValueError(f"weights must be finite numbers, got {weights}")
        self._client = PredictionClient(
            address,
            model_name,
            deadline_s=deadline_s,
            root_certificates=root_certificates,
            retry_budget=retry_budget,
        )
        self._store = store
        self._tasks = tasks
        self._sequences = frozenset(store.sequence_names)

    def rank(
        self,
        user_id: int,
        live_ids: Sequence[int] | np.ndarray | None = None,
        limit: int | None = None,
        *,
        version: int | None = None,
        label: str = STABLE,
        deadline_s: float | None = None,
    ) -> Ranking:
        """Rooms for `user_id`, best first.

        Args:
            user_id: The user; one that the store has never seen is ranked for with an empty history.
            live_ids: The candidates; all rooms that are live now by default.
            limit: Keep at most this many of the best.
            version: A version to insist on, instead of a label.
            label: Of the version to ask. If the store has no labels at all, those of the server count, and "stable" is
                the newest version.
            deadline_s: Instead of the client's.

        Raises:
            ValueError: The limit isn't positive, the deadline is out of range, an id isn't an integer from 0 to
                2^63 - 1, or both a version and a label are given.
            RankingError: Unknown room, version or label, no server or store, no answer within the deadline, or an
                answer without a finite score for each task and room.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        if version is not None and label != STABLE:
            raise ValueError(f"give a version or a label, not both: got version {version} and label {label!r}")
        if deadline_s is not None:
            check_deadline(deadline_s)
        user_id, live_ids = _checked_user(user_id), None if live_ids is None else _checked_rooms(live_ids)
        end = time.monotonic() + (self._client.deadline_s if deadline_s is None else deadline_s)
        request = self._read(user_id, live_ids, version, label)
        if len(request.live_ids) == 0:
            return Ranking(user_id, None, (), None if version is not None else label)
        stored = request.version if version in (None, request.version) else None
        try:
            scores = self._score(request, stored, version, label, end)
        except RankingError as error:
            if error.code != "NOT_FOUND" or stored is None or version is not None:
                raise
            request = self._read(user_id, live_ids, version, label)
            scores = self._score(request, request.version if request.version != stored else None, None, label, end)
        return self._ranking(user_id, request, scores, None if version is not None else label, limit)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> "RankingClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(
        self, user_id: int, live_ids: Sequence[int] | np.ndarray | None, version: int | None, label: str
    ) -> StoredRequest:
        try:
            if version is not None:  # its vectors are stored if it has a label
                labels = self._store.served.labels
                label = next((name for name, of in labels.items() if of == version), next(iter(labels), label))
            return self._store.rank_request(user_id, live_ids, label=label)
        except OSError as error:
            raise RankingError("UNAVAILABLE", f"the features of user {user_id} can't be read: {error}") from error
        except (KeyError, ValueError) as error:
            reason = error.args[0] if error.args else error  # str() of a KeyError would put its text into quotes
            raise RankingError("NOT_FOUND", f"no features to rank rooms for user {user_id}: {reason}") from error

    def _score(
        self, request: StoredRequest, stored: int | None, version: int | None, label: str, end: float
    ) -> RoomScores:
        """Scores of all rooms by one version: `stored`, with its vectors, or else by `serving_default` alone."""
        if stored is None:
            by_label = label if version is None and label != STABLE else None
            found, scores = self._predict("serving_default", request.inputs, version, by_label, end)
            return RoomScores(found, scores, np.zeros(len(request.live_ids), bool))
        ready = request.has_foresight
        some, every = bool(ready.any()), bool(ready.all())
        if not some:
            found, scores = self._predict("serving_default", request.inputs, stored, None, end)
            return RoomScores(found, scores, ready)
        inputs = {name: values for name, values in request.inputs.items() if name not in self._sequences}
        inputs["foresight"] = request.foresight
        if every:
            return RoomScores(*self._predict("rank", inputs, stored, None, end), ready)
        scores = np.empty((len(self._tasks), len(ready)))
        inputs = {name: values[ready] for name, values in inputs.items()}
        raw = {name: values[~ready] for name, values in request.inputs.items()}
        found, scores[:, ready] = self._predict("rank", inputs, stored, None, end)
        found, scores[:, ~ready] = self._predict("serving_default", raw, stored, None, end)
        return RoomScores(found, scores, ready)

    def _predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], version: int | None, label: str | None, end: float
    ) -> tuple[int, np.ndarray]:
        """The version that answered, and its scores (tasks, R)."""
        rooms = len(next(iter(inputs.values())))
        remaining_s = end - time.monotonic()
        if remaining_s <= 0:
            raise RankingError(
                "DEADLINE_EXCEEDED",
                f"the deadline was over before {signature!r} could be asked for {rooms} rooms: reading their features "
                "took too long, or a request before; ask for fewer rooms or give more time",
            )
        try:
            prediction = self._client.predict(
                inputs, signature_name=signature, version=version, label=label, deadline_s=remaining_s
            )
        except RankingError as error:
            if error.code != "INVALID_ARGUMENT" or "required" not in str(error):
                raise
            message = f"{error}; what the store holds isn't what the model takes: they were made from different schemas"
            raise RankingError(error.code, message) from error
        if version is not None and prediction.version != version:
            raise RankingError(
                "INTERNAL",
                f"version {prediction.version} of model {self._client.model_name!r} answered, expected {version}; "
                "is this a server of TensorFlow Serving's API?",
            )
        return prediction.version, checked_scores(prediction.outputs, self._tasks, rooms, self._client.model_name)

    def _ranking(
        self, user_id: int, request: StoredRequest, scored: RoomScores, label: str | None, limit: int | None
    ) -> Ranking:
        total = self._weights @ scored.scores
        order = np.lexsort((request.live_ids, -total))[:limit]
        # Lists at once: a call for each number would cost more than the rest.
        rows = zip(
            request.live_ids[order].tolist(), scored.scores[:, order].T.tolist(), total[order].tolist(), strict=True
        )
        ranked = tuple(
            RankedRoom(room, dict(zip(self._tasks, scores, strict=True)), score) for room, scores, score in rows
        )
        used = scored.by_foresight
        return Ranking(
            user_id,
            scored.version,
            ranked,
            label,
            int(request.foresight_as_of_ms[used].min()) if used.any() else None,
            int(len(used) - np.count_nonzero(used)),
        )


def _checked_user(user_id: int) -> int:
    with contextlib.suppress(TypeError):
        if 0 <= (user := operator.index(user_id)) <= _MAX_ID:
            return user
    raise ValueError(f"user_id must be an integer from 0 to {_MAX_ID}, got {user_id!r}")


def _checked_rooms(live_ids: Sequence[int] | np.ndarray) -> np.ndarray:
    rooms = np.asarray(live_ids)
    if rooms.size and (rooms.dtype.kind not in "iu" or rooms.min() < 0 or rooms.max() > _MAX_ID):
        raise ValueError(f"live_ids must be integers from 0 to {_MAX_ID}, got {reprlib.repr(live_ids)}")
    return rooms.astype(np.int64)
