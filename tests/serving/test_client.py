import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.client import RankingClient
from serving.prediction_client import PredictionClient
from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError
from serving.tensors import from_tensor_proto, to_tensor_proto

ROOT = Path(__file__).parents[2]


class FakeStore:
    """Knows users 1 and 2 and the rooms 10, 20, 30."""

    tasks = ("ctr", "gtr")

    def request(self, user_id, live_ids=None):
        if user_id not in (1, 2):
            raise KeyError(f"user {user_id} was never seen")
        rooms = np.array([10, 20, 30] if live_ids is None else live_ids, np.int64)
        if unknown := set(rooms.tolist()) - {10, 20, 30}:
            raise ValueError(f"rooms {sorted(unknown)} are not live")
        return rooms, {"live_id": rooms}


class FakeServer:
    """Answers Predict by calling `behave(request, context)`, which may be changed at any time."""

    def __init__(self):
        self.behave = answer_with(lambda rooms: {"ctr": rooms / 100, "gtr": 1 - rooms / 100})
        self.calls = 0
        handler = grpc.unary_unary_rpc_method_handler(
            self._predict, api.PredictRequest.FromString, api.PredictResponse.SerializeToString
        )
        service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def _predict(self, request, context):
        self.calls += 1
        return self.behave(request, context)


def answer_with(scores, version=5):
    def behave(request, context):
        response = api.PredictResponse()
        response.model_spec.version.value = version
        for name, array in scores(from_tensor_proto(request.inputs["live_id"])).items():
            response.outputs[name].CopyFrom(to_tensor_proto(np.asarray(array, np.float32)))
        return response

    return behave


@pytest.fixture
def server():
    server = FakeServer()
    yield server
    server.server.stop(None)


@pytest.fixture
def client(server):
    with RankingClient(server.address, "ranker", FakeStore(), deadline_s=2.0) as client:
        yield client


def test_importing_the_client_imports_no_tensorflow():
    code = (
        "import sys, serving.client, serving.launch, serving.cli, serving.publisher; "
        "print([name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'tensorflow_serving', 'keras')])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.strip() == "[]"


def test_rooms_come_best_first_with_scores_of_each_task(server, client):
    server.behave = answer_with(lambda rooms: {"ctr": rooms / 100, "gtr": (rooms == 10) * 0.5})
    ranking = client.rank(1)
    assert ranking.version == 5
    assert ranking.user_id == 1
    assert [room.live_id for room in ranking.rooms] == [10, 30, 20]
    assert ranking.rooms[0].scores == pytest.approx({"ctr": 0.1, "gtr": 0.5})
    assert [room.score for room in ranking.rooms] == pytest.approx([0.6, 0.3, 0.2])


def test_weights_change_the_order(server):
    server.behave = answer_with(lambda rooms: {"ctr": rooms / 100, "gtr": (rooms == 10) * 0.5})
    with RankingClient(server.address, "ranker", FakeStore(), weights={"gtr": 0.1}) as client:
        assert [room.live_id for room in client.rank(1).rooms] == [30, 20, 10]


def test_equal_scores_stand_in_the_order_of_the_ids(server, client):
    server.behave = answer_with(lambda rooms: {"ctr": rooms * 0 + 0.3, "gtr": rooms * 0})
    assert [room.live_id for room in client.rank(1, [30, 10, 20]).rooms] == [10, 20, 30]


def test_limit_keeps_the_best(server, client):
    server.behave = answer_with(lambda rooms: {"ctr": rooms / 100, "gtr": rooms * 0})
    assert [room.live_id for room in client.rank(1, limit=2).rooms] == [30, 20]


def test_scores_of_shape_rooms_by_one_are_taken(server, client):
    server.behave = answer_with(lambda rooms: {"ctr": rooms[:, None] / 100, "gtr": rooms[:, None] * 0})
    assert client.rank(2).rooms[0].live_id == 30


def test_no_room_needs_no_server(server, client):
    ranking = client.rank(1, [])
    assert (ranking.rooms, ranking.version, server.calls) == ((), None, 0)


@pytest.mark.parametrize(
    ("user", "rooms", "message"),
    [(9, None, "user 9: user 9 was never seen"), (1, [10, 99], r"rooms \[99\] are not live")],
)
def test_unknown_user_or_room_is_an_error_that_says_so(client, user, rooms, message):
    with pytest.raises(RankingError, match=message) as caught:
        client.rank(user, rooms)
    assert caught.value.code == "NOT_FOUND"


def test_a_store_that_can_not_be_reached_is_an_error_that_says_so(server):
    class Unreachable(FakeStore):
        def request(self, user_id, live_ids=None):
            raise ConnectionError("redis://127.0.0.1:1/0: no answer from the Redis server")

    with (
        RankingClient(server.address, "ranker", Unreachable()) as client,
        pytest.raises(RankingError, match=r"user 1 can't be read: redis://127\.0\.0\.1:1/0: no answer") as caught,
    ):
        client.rank(1)
    assert caught.value.code == "UNAVAILABLE"


def test_unavailable_and_aborted_are_tried_again(server, client):
    answer = server.behave

    def fail_twice(request, context):
        if server.calls <= 2:
            context.abort([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED][server.calls - 1], "not now")
        return answer(request, context)

    server.behave = fail_twice
    assert len(client.rank(1).rooms) == 3
    assert server.calls == 3


def test_retries_back_off_and_end_with_the_deadline(server):
    times = []

    def fail(request, context):
        times.append(time.monotonic())
        context.abort(grpc.StatusCode.UNAVAILABLE, "never")

    server.behave = fail
    with PredictionClient(server.address, "ranker", deadline_s=0.6) as client:
        start = time.monotonic()
        with pytest.raises(RankingError, match=r"no model server can be reached .*never.*foresight serve") as caught:
            client.predict({})
        assert time.monotonic() - start < 0.7
    assert caught.value.code == "UNAVAILABLE"
    pauses = np.diff(times)
    assert 3 <= len(times) <= 10
    assert pauses[-1] > 2 * pauses[0]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL]
)
def test_other_errors_are_not_tried_again(server, client, code):
    server.behave = lambda request, context: context.abort(code, "because")
    with pytest.raises(RankingError, match=f"{code.name}: because") as caught:
        client.rank(1)
    assert caught.value.code == code.name
    assert server.calls == 1


def test_a_slow_server_costs_no_more_than_the_deadline(server):
    ended = threading.Event()
    server.behave = lambda request, context: ended.wait(5) and api.PredictResponse()
    with RankingClient(server.address, "ranker", FakeStore(), deadline_s=0.3) as client:
        start = time.monotonic()
        with pytest.raises(RankingError, match="within the deadline of") as caught:
            client.rank(1)
        assert time.monotonic() - start < 1.0
    ended.set()
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_no_server_is_an_error_that_names_the_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nothing answers there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            RankingClient(address, "ranker", FakeStore()) as client,
            pytest.raises(RankingError, match=f"no model server can be reached at {address}"),
        ):
            client.rank(1)


def test_a_server_that_comes_back_is_found_within_the_deadline(server):
    with PredictionClient(server.address, "ranker", deadline_s=3.0) as client:
        server.server.stop(None).wait()
        with pytest.raises(RankingError):
            client.predict({}, deadline_s=0.2)
        again = grpc.server(futures.ThreadPoolExecutor(1))
        handler = grpc.unary_unary_rpc_method_handler(
            lambda request, context: api.PredictResponse(),
            api.PredictRequest.FromString,
            api.PredictResponse.SerializeToString,
        )
        again.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler}),)
        )
        again.add_insecure_port(server.address)
        again.start()
        assert client.predict({}).outputs == {}
        again.stop(None)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda rooms: {"ctr": rooms / 100}, r"no output 'gtr', only \['ctr'\]"),
        (lambda rooms: {"ctr": rooms / 100, "gtr": rooms * np.nan}, "'gtr' .* 3 entries that are not finite"),
        (lambda rooms: {"ctr": rooms / 100, "gtr": rooms[:2]}, r"'gtr' .*shape \(2,\)"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error(server, client, scores, message):
    server.behave = answer_with(scores)
    with pytest.raises(RankingError, match=message):
        client.rank(1)


def test_one_client_serves_many_threads(client):
    with futures.ThreadPoolExecutor(8) as pool:
        rankings = list(pool.map(lambda _: client.rank(1), range(64)))
    assert all(ranking == rankings[0] for ranking in rankings)


@pytest.mark.parametrize("address", ["localhost", "http://localhost:8500", "localhost:", ":8500", "a b:1", ""])
def test_a_wrong_address_is_refused(address):
    with pytest.raises(ValueError, match="must be host:port"):
        RankingClient(address, "ranker", FakeStore())


def test_wrong_arguments_are_refused(server, client):
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        client.rank(1, limit=0)
    with pytest.raises(ValueError, match=r"weights for tasks \['cvr'\]"):
        RankingClient(server.address, "ranker", FakeStore(), weights={"cvr": 1})
    with pytest.raises(ValueError, match="deadline_s must be a positive"):
        RankingClient(server.address, "ranker", FakeStore(), deadline_s=0)
    with pytest.raises(ValueError, match="not both"), PredictionClient(server.address, "ranker") as predictions:
        predictions.predict({}, version=1, label="stable")
