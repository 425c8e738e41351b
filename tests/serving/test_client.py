import shutil
import socket
import subprocess
import threading
import time
from concurrent import futures
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from beam_transforms.online_store import open_online_store
from beam_transforms.schema import LIVE_SCHEMA
from serving.client import RankingClient
from serving.prediction_client import PredictionClient
from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError
from serving.retry_budget import RetryBudget
from serving.tensors import from_tensor_proto, to_tensor_proto
from tests.beam_transforms.stored_tables import BEGIN_MS, ROOMS, fill


class FakeStore:
    """Knows users 1 and 2 and the rooms 10, 20, 30; without stored vectors unless `labels` and `ready` are set."""

    tasks = ("ctr", "gtr")
    sequence_names = ("statistic_sequence",)

    def __init__(self, labels=None, ready=()):
        self.labels, self.ready = dict(labels or {}), set(ready)
        self.reads = []

    @property
    def served(self):
        return SimpleNamespace(labels=dict(self.labels))

    def rank_request(self, user_id, live_ids=None, now_ms=None, label="stable"):
        self.reads.append(label)
        if user_id not in (1, 2):
            raise KeyError(f"user {user_id} was never seen")
        rooms = np.array([10, 20, 30] if live_ids is None else live_ids, np.int64)
        if unknown := set(rooms.tolist()) - {10, 20, 30}:
            raise ValueError(f"rooms {sorted(unknown)} are not live")
        if self.labels and label not in self.labels:
            raise ValueError(f"no version is served under the label {label!r}; the labels are {self.labels}")
        version = self.labels.get(label)
        has = np.array([version is not None and room in self.ready for room in rooms], bool)
        vectors = np.where(has, rooms, np.nan)[:, None] * np.ones(2, np.float32)  # NaN must never be sent
        return SimpleNamespace(
            version=version,
            live_ids=rooms,
            has_foresight=has,
            foresight=vectors.astype(np.float32),
            foresight_as_of_ms=np.where(has, 1000 * rooms, 0),
            inputs={"live_id": rooms, "statistic_sequence": np.zeros((len(rooms), 4, 2), np.float32)},
        )


class FakeServer:
    """Answers Predict by calling `behave(request, context)`, which may be changed at any time."""

    def __init__(self, credentials=None):
        self.behave = answer_with(lambda rooms: {"ctr": rooms / 100, "gtr": 1 - rooms / 100})
        self.calls = 0
        handler = grpc.unary_unary_rpc_method_handler(
            self._predict, api.PredictRequest.FromString, api.PredictResponse.SerializeToString
        )
        service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((service,))
        if credentials is None:
            self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        else:
            self.address = f"localhost:{self.server.add_secure_port('127.0.0.1:0', credentials)}"
        self.server.start()

    def _predict(self, request, context):
        self.calls += 1
        return self.behave(request, context)


def answer(scores, version=5):
    response = api.PredictResponse()
    response.model_spec.version.value = version
    for name, array in scores.items():
        response.outputs[name].CopyFrom(to_tensor_proto(np.asarray(array, np.float32)))
    return response


def answer_with(scores, version=5):
    return lambda request, context: answer(scores(from_tensor_proto(request.inputs["live_id"])), version)


@pytest.fixture
def server():
    server = FakeServer()
    yield server
    server.server.stop(None)


@pytest.fixture(scope="module")
def shared_server():
    """For tests that hypothesis calls many times."""
    server = FakeServer()
    yield server
    server.server.stop(None)


@pytest.fixture
def client(server):
    with RankingClient(server.address, "ranker", FakeStore(), deadline_s=2.0) as client:
        yield client


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


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (b"\x00head", "the head of the online store can't be read"),
        (b"\x00served", "of the versions that are served can't be read"),
        (b"\x01", "the store is damaged"),
        (b"\x02", "width"),
    ],
)
def test_a_damaged_store_is_not_the_requests_fault(server, tmp_path, key, message):
    fill(tmp_path)
    with open_online_store(tmp_path, readonly=False) as store:
        store.set_served({"stable": 1}, {1: 2})
        store.write_foresight(1, ROOMS, np.zeros((len(ROOMS), 2)), BEGIN_MS)
        with RankingClient(server.address, "ranker", store) as client:
            with store._file.use() as environment, environment.begin(write=True) as transaction:
                for name in [name for name, _ in transaction.cursor() if name.startswith(key)]:
                    transaction.put(name, b"damaged")
                transaction.put(b"\x00stamp", b"another")
            with pytest.raises(RankingError, match=message) as caught:
                client.rank(1)
    assert (caught.value.code, server.calls) == ("UNAVAILABLE", 0)


def test_a_store_that_can_not_be_reached_is_an_error_that_says_so(server):
    class Unreachable(FakeStore):
        def rank_request(self, user_id, live_ids=None, now_ms=None, label="stable"):
            raise ConnectionError("redis://127.0.0.1:1/0: no answer from the Redis server")

    with (
        RankingClient(server.address, "ranker", Unreachable()) as client,
        pytest.raises(RankingError, match=r"user 1 can't be read: redis://127\.0\.0\.1:1/0: no answer") as caught,
    ):
        client.rank(1)
    assert caught.value.code == "UNAVAILABLE"


def test_unavailable_and_aborted_are_tried_again(server, client):
    behave = server.behave

    def fail_twice(request, context):
        if server.calls <= 2:
            context.abort([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED][server.calls - 1], "not now")
        return behave(request, context)

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


def test_a_request_may_have_a_deadline_of_its_own(server, client):
    ended = threading.Event()
    server.behave = lambda request, context: ended.wait(5) and api.PredictResponse()
    start = time.monotonic()
    with pytest.raises(RankingError, match="within the deadline of"):
        client.rank(1, deadline_s=0.1)
    assert time.monotonic() - start < 1.0
    ended.set()


def test_a_store_that_takes_the_whole_deadline_leaves_nothing_to_ask(server):
    class Slow(FakeStore):
        def rank_request(self, *arguments, **options):
            time.sleep(0.1)
            return super().rank_request(*arguments, **options)

    with (
        RankingClient(server.address, "ranker", Slow(), deadline_s=0.05) as client,
        pytest.raises(RankingError, match="deadline was over before 'serving_default' could be asked") as caught,
    ):
        client.rank(1)
    assert (caught.value.code, server.calls) == ("DEADLINE_EXCEEDED", 0)


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


@pytest.mark.parametrize(
    "address",
    ["localhost", "http://localhost:8500", "localhost:", ":8500", "a b:1", "", "a:0", "a:65536", "127.0.0.1:84036"],
)
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
    with pytest.raises(ValueError, match="not both: got version 3 and label 'canary'"):
        client.rank(1, version=3, label="canary")
    with pytest.raises(ValueError, match="deadline_s must be a positive"):
        client.rank(1, deadline_s=-1)
    with pytest.raises(ValueError, match="not both"), PredictionClient(server.address, "ranker") as predictions:
        predictions.predict({}, version=1, label="stable")


@pytest.mark.parametrize("deadline_s", [0, -1, float("nan"), float("inf"), 8e9, 86_401])
def test_a_deadline_that_can_not_be_kept_is_refused(server, client, deadline_s):
    asked = r"deadline_s must be a positive number of seconds, at most 86400 \(a day\), got "
    for opened in (PredictionClient, lambda *address, **options: RankingClient(*address, FakeStore(), **options)):
        with pytest.raises(ValueError, match=asked):
            opened(server.address, "ranker", deadline_s=deadline_s)
    with pytest.raises(ValueError, match=asked):
        client.rank(1, deadline_s=deadline_s)
    with pytest.raises(ValueError, match=asked), PredictionClient(server.address, "ranker") as predictions:
        predictions.predict({}, deadline_s=deadline_s)
    assert server.calls == 0


def test_the_longest_deadline_is_kept(client):
    assert len(client.rank(1, deadline_s=86_400).rooms) == 3


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_would_end_the_order_is_refused(server, weight):
    with pytest.raises(ValueError, match=f"weights must be finite numbers, got {{'gtr': {weight}}}"):
        RankingClient(server.address, "ranker", FakeStore(), weights={"gtr": weight})


@pytest.mark.parametrize("user", [-1, 2**63, 1.9, 1.0, "1", None, np.uint64(2**64 - 1)])
def test_a_user_that_is_no_id_is_refused(server, client, user):
    with pytest.raises(ValueError, match=r"user_id must be an integer from 0 to 9223372036854775807, got .*[\dN]"):
        client.rank(user)
    assert server.calls == 0


@pytest.mark.parametrize(
    "rooms", [[-1], [10, 2**63], [2**64], [10.5], ["10"], [True], np.array([2**64 - 1], np.uint64), np.array([10.0])]
)
def test_rooms_that_are_no_ids_are_refused(server, client, rooms):
    with pytest.raises(ValueError, match=r"live_ids must be integers from 0 to 9223372036854775807, got .*\["):
        client.rank(1, rooms)
    assert server.calls == 0


def test_ids_of_numpy_are_taken(client):
    ranking = client.rank(np.uint32(1), np.array([10, 30], np.uint64))
    assert ([room.live_id for room in ranking.rooms], type(ranking.user_id)) == ([30, 10], int)


class VersionedServer:
    """A server's versions, and how each answers: ctr is 0.1 for version 1, 0.2 for 2 ..., a little more by `rank`."""

    def __init__(self, server, available=(1,)):
        self.available = list(available)
        self.asked = []
        server.behave = self._behave

    def _behave(self, request, context):
        spec, signature = request.model_spec, request.model_spec.signature_name
        version = spec.version.value if spec.HasField("version") else max(self.available)
        inputs = {name: from_tensor_proto(proto) for name, proto in request.inputs.items()}
        self.asked.append((signature, version, spec.version_label, inputs))
        self.swap(len(self.asked))
        if version not in self.available:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific(ranker, {version})")
        expected = {"live_id", "foresight"} if signature == "rank" else {"live_id", "statistic_sequence"}
        if set(inputs) != expected:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"inputs {sorted(inputs)}")
        scores = np.full(len(inputs["live_id"]), version / 10) + (signature == "rank") * 0.01
        if signature == "rank":
            np.testing.assert_array_equal(inputs["foresight"], np.repeat(inputs["live_id"][:, None], 2, axis=1))
        return answer({"ctr": scores, "gtr": scores * 0}, version)

    def swap(self, calls):
        """What happens on the server before the answer of a call."""

    @property
    def signatures(self):
        return [(signature, version) for signature, version, _, _ in self.asked]


def test_rooms_with_vectors_are_ranked_by_the_version_of_the_vectors(server):
    versions, store = VersionedServer(server, [1, 2, 3]), FakeStore({"stable": 2}, {10, 20, 30})
    with RankingClient(server.address, "ranker", store) as client:
        ranking = client.rank(1)
    assert versions.signatures == [("rank", 2)]
    assert store.reads == ["stable"]
    assert (ranking.version, ranking.label, ranking.rooms_by_default) == (2, "stable", 0)
    assert ranking.foresight_end_ms == 10_000, "the oldest: the newest would hide a refresh that stands still"
    assert [room.scores["ctr"] for room in ranking.rooms] == pytest.approx([0.21] * 3)


def test_rooms_without_a_vector_are_scored_from_raw_features_by_the_same_version(server):
    versions, store = VersionedServer(server, [1, 2, 3]), FakeStore({"stable": 2}, {10, 30})
    with RankingClient(server.address, "ranker", store) as client:
        ranking = client.rank(1, [30, 20, 10])
    assert versions.signatures == [("rank", 2), ("serving_default", 2)]
    assert versions.asked[0][3]["live_id"].tolist() == [30, 10]
    assert versions.asked[1][3]["live_id"].tolist() == [20]
    assert {room.live_id: round(room.scores["ctr"], 3) for room in ranking.rooms} == {10: 0.21, 20: 0.2, 30: 0.21}
    assert (ranking.version, ranking.rooms_by_default, ranking.foresight_end_ms) == (2, 1, 10_000)


def test_a_version_without_any_vector_answers_from_raw_features(server):
    versions = VersionedServer(server, [1, 2])
    with RankingClient(server.address, "ranker", FakeStore({"stable": 1})) as client:
        ranking = client.rank(1)
    assert versions.signatures == [("serving_default", 1)]
    assert (ranking.version, ranking.rooms_by_default, ranking.foresight_end_ms) == (1, 3, None)


def test_a_label_has_its_own_version(server):
    versions, store = VersionedServer(server, [1, 2]), FakeStore({"stable": 1, "canary": 2}, {10, 20, 30})
    with RankingClient(server.address, "ranker", store) as client:
        ranking = client.rank(1, label="canary")
    assert (ranking.version, ranking.label, versions.signatures) == (2, "canary", [("rank", 2)])


def test_an_unknown_label_is_an_error_that_names_the_known_ones(client, server):
    with (
        RankingClient(server.address, "ranker", FakeStore({"stable": 1})) as client,
        pytest.raises(RankingError, match=r"under the label 'night'; the labels are \{'stable': 1\}") as caught,
    ):
        client.rank(1, label="night")
    assert (caught.value.code, server.calls) == ("NOT_FOUND", 0)


def test_without_labels_in_the_store_those_of_the_server_count(server):
    versions = VersionedServer(server, [1, 2])
    with RankingClient(server.address, "ranker", FakeStore()) as client:
        rankings = [client.rank(1, label=label) for label in ("stable", "night")]
    assert [(signature, label) for signature, _, label, _ in versions.asked] == [
        ("serving_default", ""),
        ("serving_default", "night"),
    ]
    assert [(r.version, r.label, r.rooms_by_default) for r in rankings] == [(2, "stable", 3), (2, "night", 3)]


@pytest.mark.parametrize(("version", "signature"), [(1, "rank"), (2, "serving_default")])
def test_a_version_can_be_insisted_on(server, version, signature):
    versions, store = VersionedServer(server, [1, 2]), FakeStore({"night": 1}, {10, 20, 30})
    with RankingClient(server.address, "ranker", store) as client:
        ranking = client.rank(1, version=version)
    assert versions.signatures == [(signature, version)]
    assert (ranking.version, ranking.label) == (version, None)


def test_a_version_that_is_insisted_on_and_gone_is_an_error(server):
    VersionedServer(server, [2])
    store = FakeStore({"stable": 1}, {10, 20, 30})
    with RankingClient(server.address, "ranker", store) as client, pytest.raises(RankingError) as caught:
        client.rank(1, version=1)
    assert caught.value.code == "NOT_FOUND"
    assert store.reads == ["stable"]


def test_a_version_that_went_between_read_and_answer_is_read_again(server):
    versions, store = VersionedServer(server, [1]), FakeStore({"stable": 1}, {10, 30})

    def swap(calls):
        if calls == 2:  # the vectors' half of the answer is there already
            versions.available, store.labels = [2], {"stable": 2}

    versions.swap = swap
    with RankingClient(server.address, "ranker", store) as client:
        ranking = client.rank(1)
    assert versions.signatures == [("rank", 1), ("serving_default", 1), ("rank", 2), ("serving_default", 2)]
    assert ranking.version == 2
    assert {round(room.scores["ctr"], 3) for room in ranking.rooms} == {0.21, 0.2}


def test_vectors_that_nobody_keeps_up_do_not_end_the_service(server):
    versions, store = VersionedServer(server, [7]), FakeStore({"stable": 1}, {10, 20, 30})
    with RankingClient(server.address, "ranker", store) as client:
        ranking = client.rank(1)
    assert versions.signatures == [("rank", 1), ("serving_default", 7)]
    assert (ranking.version, ranking.rooms_by_default, len(store.reads)) == (7, 3, 2)


def test_a_server_that_answers_with_another_version_is_an_error(server):
    server.behave = answer_with(lambda rooms: {"ctr": rooms / 100, "gtr": rooms * 0}, version=8)
    store = FakeStore({"stable": 1}, {10, 20, 30})
    with (
        RankingClient(server.address, "ranker", store) as client,
        pytest.raises(RankingError, match="version 8 of model 'ranker' answered, expected 1"),
    ):
        client.rank(1)


@given(
    swaps=st.lists(st.booleans(), min_size=4, max_size=4),
    behind=st.booleans(),
    ready=st.sets(st.sampled_from([10, 20, 30])),
)
@settings(phases=(Phase.generate,), max_examples=40)
def test_a_ranking_never_mixes_versions(shared_server, swaps, behind, ready):
    """Whenever the server swaps, and whether or not the store follows, all scores of an answer are of one version."""
    versions, store = VersionedServer(shared_server, [1]), FakeStore({"stable": 1}, ready)

    def swap(calls):
        if calls <= len(swaps) and swaps[calls - 1]:
            newest = versions.available[-1] + 1
            versions.available = [newest]
            store.labels = {"stable": newest - behind}

    versions.swap = swap
    with RankingClient(shared_server.address, "ranker", store, deadline_s=5.0) as client:
        try:
            ranking = client.rank(1)
        except RankingError as error:
            assert (error.code, sum(swaps) >= 2) == ("NOT_FOUND", True)  # a second swap within one request
            return
    of = {round(room.scores["ctr"], 3) for room in ranking.rooms}
    assert of <= {ranking.version / 10, round(ranking.version / 10 + 0.01, 3)}
    assert ranking.rooms_by_default == sum(round(room.scores["ctr"] * 100) % 10 == 0 for room in ranking.rooms)


def test_an_overloaded_server_is_not_asked_again(server, client):
    server.behave = lambda request, context: context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full")
    with pytest.raises(RankingError, match=r"too much to do.*queue is full") as caught:
        client.rank(1)
    assert (caught.value.code, server.calls) == ("RESOURCE_EXHAUSTED", 1)


def test_retries_of_many_requests_stay_within_the_budget(server):
    server.behave = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "never")
    budget = RetryBudget(ratio=0.1, burst=2, per_second=0)
    with PredictionClient(server.address, "ranker", deadline_s=0.1, retry_budget=budget) as client:
        for _ in range(40):
            with pytest.raises(RankingError):
                client.predict({})
    assert 40 < server.calls <= 40 + 2 + 0.1 * 40


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Key and certificate of "localhost"."""
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl on the PATH to make a certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "root.pem"), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return folder / "key.pem", folder / "root.pem"


def test_root_certificates_make_the_connection_secure(certificate):
    key, root = certificate
    server = FakeServer(grpc.ssl_server_credentials([(key.read_bytes(), root.read_bytes())]))
    try:
        for certificates in (root, root.read_bytes()):
            with RankingClient(server.address, "ranker", FakeStore(), root_certificates=certificates) as client:
                assert len(client.rank(1).rooms) == 3
        with (
            RankingClient(server.address, "ranker", FakeStore(), deadline_s=0.3) as plain,
            pytest.raises(RankingError, match="whether it speaks no TLS"),
        ):
            plain.rank(1)
    finally:
        server.server.stop(None)


def test_root_certificates_that_are_none_are_refused(tmp_path):
    (tmp_path / "empty.pem").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no certificate in PEM form in .*empty\.pem"):
        RankingClient("localhost:1", "ranker", FakeStore(), root_certificates=tmp_path / "empty.pem")
    with pytest.raises(FileNotFoundError):
        RankingClient("localhost:1", "ranker", FakeStore(), root_certificates=tmp_path / "none.pem")


def test_the_online_store_is_what_the_client_reads(server, tmp_path):
    """From the store's records to the tensors that the server gets, with and without a stored vector."""
    rooms = np.array([10, 20, 30])
    ids = {"live_id": rooms, "author_id": rooms + 1, "user_id": np.ones(3, np.int64)}
    tables = {}
    for key, features in LIVE_SCHEMA.stored.items():
        columns = {name: ids[name] for name in dict.fromkeys([*key, *(("author_id",) * (key == ("live_id",)))])}
        for feature in features:
            columns.setdefault(feature.name, np.full((3, *feature.shape), 2, feature.dtype))
        tables[key] = [columns]
    as_of_ms = 1_750_000_020_000
    asked = {}

    def behave(request, context):
        signature = request.model_spec.signature_name
        asked[signature] = {name: from_tensor_proto(proto) for name, proto in request.inputs.items()}
        authors = asked[signature]["author_id"]
        return answer(dict.fromkeys(LIVE_SCHEMA.task_names, authors / 100))

    server.behave = behave
    with open_online_store(tmp_path / "store", readonly=False) as store:
        store.write(LIVE_SCHEMA, as_of_ms, tables, rooms)
        with RankingClient(server.address, "ranker", store, deadline_s=5.0) as client:
            assert client.rank(1).rooms_by_default == 3
            store.set_served({"stable": 5}, {5: 4})
            store.write_foresight(5, rooms[:2], np.array([[1] * 4, [2] * 4], np.float32), as_of_ms)
            ranking = client.rank(1, [30, 20, 10], limit=2)
    assert [room.live_id for room in ranking.rooms] == [30, 20]
    assert (ranking.version, ranking.foresight_end_ms, ranking.rooms_by_default) == (5, as_of_ms, 1)
    assert asked["rank"]["foresight"].tolist() == [[2] * 4, [1] * 4]
    names = {feature.name for feature in LIVE_SCHEMA.inputs}
    assert set(asked["rank"]) == names - {"statistic_sequence", "statistic_mask"} | {"foresight"}
    assert asked["serving_default"]["author_id"].tolist() == [31]
    for feature in LIVE_SCHEMA.inputs:
        got = asked["serving_default"][feature.name]
        assert (got.dtype, got.shape) == (np.dtype(feature.dtype), (1, *feature.shape))
