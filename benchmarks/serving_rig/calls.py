"""Calls: what a caller's process does. Importing it imports no TensorFlow."""

import collections
import functools
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np

from beam_transforms.online_store import open_online_store
from benchmarks.serving_rig.recipe import MODEL_NAME
from serving.client import RankingClient
from serving.model_service_client import ModelServiceClient
from serving.prediction_client import PredictionClient
from serving.ranking_error import RankingError
from serving.tensors import predict_request

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_CHANNELS = 4
_DEADLINE_S = 0.5
_OK = "OK"


class Calls:
    """Requests to a server, timed: one user and some rooms, drawn anew for each ranking.

    Args:
        address: "host:port" of the server.
        location: The online store.
        candidates: Rooms a request.
        users: Users to ask for.
    """

    def __init__(self, address: str, location: str, candidates: int, users: int) -> None:
        self._store = open_online_store(location)
        self._client = RankingClient(address, MODEL_NAME, self._store)
        self._predictions = PredictionClient(address, MODEL_NAME, deadline_s=10.0)
        self._service = ModelServiceClient(address)
        self._rooms, self._candidates, self._users = self._store.live_ids, candidates, users
        self._generator = np.random.default_rng(0)
        asked = self._store.rank_request(0, self._draw())
        sequences = set(self._store.sequence_names)
        self._inputs = {
            "serving_default": dict(asked.inputs),
            "rank": {name: values for name, values in asked.inputs.items() if name not in sequences}
            | {"foresight": asked.foresight},
        }
        self._messages = {
            name: predict_request(MODEL_NAME, inputs, signature_name=name).SerializeToString()
            for name, inputs in self._inputs.items()
        }
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._stubs = [grpc.insecure_channel(address, options).unary_unary(_PREDICT) for _ in range(_CHANNELS)]

    def latencies(self, kind: str, repeats: int) -> list[float]:
        """Milliseconds of calls, one after the other.

        Args:
            kind: "serving_default" and "rank" (Predict of prepared arrays), "null" (GetModelStatus), "ranking" (all
                that RankingClient does) or "read" (of that the store).
        """
        calls: dict[str, Callable[[], Any]] = {
            "null": lambda: self._service.status(MODEL_NAME),
            "ranking": lambda: self._client.rank(self._user(), self._draw()),
            "read": lambda: self._store.rank_request(self._user(), self._draw()),
        }
        for signature, inputs in self._inputs.items():
            calls[signature] = functools.partial(self._predictions.predict, inputs, signature_name=signature)
        return [_milliseconds(calls[kind]) for _ in range(repeats)]

    def inputs(self) -> dict[str, dict[str, np.ndarray]]:
        """Signature -> the arrays that `latencies` sends."""
        return self._inputs

    def rank_on(self, count: Any, stop: Any) -> dict[str, Any]:
        """Rankings one after the other, until told to stop.

        Args:
            count: Shared number of the rankings so far.
            stop: Shared event.

        Returns:
            begin_s, end_s (of `time.time`), versions and by_default (rooms without a stored vector), one entry a
            ranking; errors: texts.
        """
        rows, errors = [], []
        while not stop.is_set():
            user, rooms = self._user(), self._draw()
            begin_s, version, by_default = time.time(), -1, 0
            try:
                ranking = self._client.rank(user, rooms)
                version, by_default = ranking.version or -1, ranking.rooms_by_default
            except RankingError as error:
                errors.append(str(error))
            rows.append((begin_s, time.time(), version, by_default))
            count.value += 1
        columns = np.array(rows).reshape(-1, 4).T
        return dict(zip(("begin_s", "end_s", "versions", "by_default"), columns, strict=True)) | {"errors": errors}

    def closed_loop(self, clients: int, seconds: float, signature: str) -> dict[str, Any]:
        """As many clients as given, each asking again as soon as it is answered.

        Returns:
            seconds, cpu_s (of the caller), codes (name -> number of answers), ms (of the answers that were OK).
        """
        begin, cpu = time.perf_counter(), time.process_time()
        answers: list[tuple[str, float]] = []
        message = self._messages[signature]

        def ask(number: int) -> None:
            stub = self._stubs[number % _CHANNELS]
            while (asked := time.perf_counter()) - begin < seconds:
                code = _code(lambda: stub(message, timeout=10.0))
                answers.append((code, time.perf_counter() - asked))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {
            "seconds": time.perf_counter() - begin,
            "cpu_s": time.process_time() - cpu,
            "codes": collections.Counter(code for code, _ in answers),
            "ms": np.array([1000 * took_s for code, took_s in answers if code == _OK]),
        }

    def open_loop(self, schedule: Sequence[tuple[float, float]], signature: str) -> dict[str, Any]:
        """Requests that come when they are due, whatever the server answers, each with a deadline of 0.5 s.

        Args:
            schedule: Requests a second, and for how many seconds, one after the other.

        Returns:
            due_s (since the beginning), sent_s and ms (from when it was due), one entry an answer, codes, the name of
            each one's, and cpu_s of the caller.
        """
        due = np.concatenate(
            [[0.0], *(np.full(round(rate * seconds), 1 / rate) for rate, seconds in schedule)]
        ).cumsum()
        begin, cpu = time.perf_counter(), time.process_time()
        answers: list[tuple[float, float, float, str]] = []
        message = self._messages[signature]
        left = threading.Semaphore(0)
        stubs = itertools.cycle(self._stubs)

        def note(call: Any, due_s: float, sent_s: float) -> None:
            answers.append((due_s, sent_s, time.perf_counter() - begin, call.code().name))
            left.release()

        for due_s in due.tolist():
            if (early := due_s - (time.perf_counter() - begin)) > 0:
                time.sleep(early)
            sent_s = time.perf_counter() - begin
            call = next(stubs).future(message, timeout=_DEADLINE_S)
            call.add_done_callback(functools.partial(note, due_s=due_s, sent_s=sent_s))
        for _ in due:
            left.acquire()
        times = np.array([answer[:3] for answer in answers])
        return {
            "due_s": times[:, 0],
            "sent_s": times[:, 1],
            "ms": 1000 * (times[:, 2] - times[:, 0]),
            "codes": np.array([answer[3] for answer in answers]),
            "cpu_s": time.process_time() - cpu,
        }

    def _draw(self) -> list[int]:
        return self._generator.choice(self._rooms, self._candidates, replace=False).tolist()

    def _user(self) -> int:
        return int(self._generator.integers(self._users))


def answer(connection: Connection, arguments: tuple[Any, ...], shared: dict[str, Any]) -> None:
    """The process: makes Calls of `arguments`, then answers (method, arguments) until None comes."""
    calls = Calls(*arguments)
    connection.send(None)
    while (asked := connection.recv()) is not None:
        method, given = asked
        more = shared if method == "rank_on" else {}
        connection.send(getattr(calls, method)(**given, **more))


def _milliseconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)


def _code(call: Callable[[], Any]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return _OK
