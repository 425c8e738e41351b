"""A local server that is asked for more than it can compute."""

import http.client
import json
import struct
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest

from serving.local_server.servable import Servable
from serving.model_service_client import ModelServiceClient
from serving.prediction_client import PredictionClient
from serving.ranking_error import RankingError

BODY = json.dumps({"signature_name": "plain", "instances": [[0, 0, 0]]})


@pytest.fixture(scope="module")
def server(serve_local):
    return serve_local(active=2, waiting=3, request_s=1.0)


@pytest.fixture
def gate(monkeypatch):
    """Computations wait until it is set; `.computed` counts them."""
    gate = threading.Event()
    gate.computed = 0
    compute = Servable.compute

    def wait(self, signature_name, inputs):
        gate.wait(20)
        gate.computed += 1
        return compute(self, signature_name, inputs)

    monkeypatch.setattr(Servable, "compute", wait)
    yield gate
    gate.set()


def predict(server, room_inputs, deadline_s=15.0):
    with PredictionClient(server.address, "m", deadline_s=deadline_s) as client:
        return client.predict(room_inputs(2))


def post(server):
    connection = http.client.HTTPConnection(server.rest_address, timeout=20)
    connection.request("POST", "/v1/models/m:predict", BODY)
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return response.status, document


def fill(pool, server, room_inputs):
    """Five requests, all there is place for; returns them when they have come in."""
    taken = [pool.submit(predict, server, room_inputs) for _ in range(5)]
    end = time.monotonic() + 10
    while server._requests._inside < 5:
        assert time.monotonic() < end
        time.sleep(0.01)
    return taken


def test_sheds_what_is_too_much_over_both_interfaces_and_recovers(server, gate, room_inputs):
    with futures.ThreadPoolExecutor(5) as pool:
        taken = fill(pool, server, room_inputs)
        begin = time.monotonic()
        for _ in range(5):
            with pytest.raises(RankingError, match="2 requests are computed and 3 wait") as caught:
                predict(server, room_inputs)
            assert caught.value.code == "RESOURCE_EXHAUSTED"
            status, document = post(server)
            assert status == 429
            assert "overloaded" in document["error"]
        assert time.monotonic() - begin < 5  # at once, not after the deadline
        gate.set()
        assert [future.result(10).version for future in taken] == [1] * 5
    assert predict(server, room_inputs).version == 1
    assert post(server)[0] == 200


def test_says_how_it_does_while_requests_wait(server, gate, room_inputs):
    with futures.ThreadPoolExecutor(5) as pool:
        taken = fill(pool, server, room_inputs)
        with ModelServiceClient(server.address) as service:
            assert service.status("m", deadline_s=2)[1].state == "AVAILABLE"
        with grpc.insecure_channel(server.address) as channel:
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=2) == b"\x08\x01"
        connection = http.client.HTTPConnection(server.rest_address, timeout=2)
        for path in ("/v1/models/m", "/monitoring/prometheus/metrics"):
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.read() and response.status == 200
        connection.close()
        gate.set()
        for future in taken:
            future.result(10)


def test_a_call_is_refused_before_its_message_is_there(server, gate, room_inputs, raw_call):
    with futures.ThreadPoolExecutor(5) as pool:
        taken = fill(pool, server, room_inputs)
        call = raw_call(server.address, "/tensorflow.serving.PredictionService/Predict")
        call.send(struct.pack(">BI", 0, 2**20) + b"x" * 100)
        assert b"grpc-status\x018" in call.trailers()  # RESOURCE_EXHAUSTED, not DEADLINE_EXCEEDED
        large = {"user_id": np.zeros(60_000, np.int64), "context": np.zeros((60_000, 3), np.float32)}
        with PredictionClient(server.address, "m", deadline_s=10) as client:
            for _ in range(3):  # on one connection
                with pytest.raises(RankingError, match="2 requests are computed and 3 wait") as caught:
                    client.predict(large)
                assert caught.value.code == "RESOURCE_EXHAUSTED"
            gate.set()
            assert [future.result(10).version for future in taken] == [1] * 5
            assert len(client.predict(large).outputs["ctr"]) == 60_000


def test_messages_on_their_way_take_no_places(server, room_inputs, raw_call):
    for _ in range(10):  # there are five
        raw_call(server.address, "/tensorflow.serving.PredictionService/Predict").send(struct.pack(">BI", 0, 1000))
    assert predict(server, room_inputs).version == 1


def test_slow_reloads_hold_no_status_up(serve_local, monkeypatch):
    server, go, begun = serve_local(), threading.Event(), threading.Event()

    def reload(configs):
        begun.set()
        go.wait(20)

    def ask():
        with ModelServiceClient(server.address) as service:
            service.reload({}, deadline_s=20)

    monkeypatch.setattr(server.manager, "reload", reload)
    with futures.ThreadPoolExecutor(6) as pool:
        reloads = [pool.submit(ask) for _ in range(6)]
        try:
            assert begun.wait(10)
            end = time.monotonic() + 5
            with ModelServiceClient(server.address) as service:
                while server._reloads._inside < 6:
                    assert time.monotonic() < end
                    time.sleep(0.01)
                for _ in range(3):
                    assert service.status("m", deadline_s=2)[1].state == "AVAILABLE"
        finally:
            go.set()
        for each in reloads:
            each.result(10)


def test_a_batch_is_waited_for_until_the_deadline_only(serve_local, room_inputs, tmp_path):
    parameters = tmp_path / "batching.config"
    parameters.write_text("max_batch_size { value: 64 } batch_timeout_micros { value: 60000000 }")
    server = serve_local(batching=True, batching_parameters=parameters, active=1, waiting=0, request_s=0.2)
    for _ in range(3):
        status, document = post(server)
        assert status == 504, document
    end = time.monotonic() + 5
    while server._requests._inside:  # the thread is free again, though the batch still waits
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises(RankingError) as caught:
        predict(server, room_inputs, deadline_s=0.2)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_who_gave_up_waiting_is_not_computed(serve_local, gate, room_inputs):
    server = serve_local(active=2, waiting=3)  # one that hasn't learned from other tests that requests take long
    with futures.ThreadPoolExecutor(5) as pool:
        taken = [pool.submit(predict, server, room_inputs) for _ in range(2)]
        while server._requests._inside < 2:
            time.sleep(0.01)
        for _ in range(3):
            with pytest.raises(RankingError) as caught:
                predict(server, room_inputs, deadline_s=0.1)
            assert caught.value.code == "DEADLINE_EXCEEDED"
        gate.set()
        for future in taken:
            future.result(10)
        assert predict(server, room_inputs).version == 1
    assert gate.computed == 3


def test_a_rest_request_that_takes_too_long_gets_504(server, gate):
    status, document = post(server)
    assert (status, document["error"]) == (504, "the request was not answered within 1 s")
    gate.set()
    assert post(server)[0] == 200


def test_refused_requests_are_counted(server, gate, room_inputs):
    with futures.ThreadPoolExecutor(5) as pool:
        taken = fill(pool, server, room_inputs)
        with pytest.raises(RankingError):
            predict(server, room_inputs)
        gate.set()
        for future in taken:
            future.result(10)
    assert 'request_count{model_name="",status="RESOURCE_EXHAUSTED"}' in server._metrics.page()


def test_a_server_that_stops_says_so_to_who_watches(serve_local, room_inputs):
    server = serve_local()
    with grpc.insecure_channel(server.address) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
        assert next(watch) == b"\x08\x01"  # SERVING
        stopper = threading.Thread(target=server.stop, args=(2.0,))
        stopper.start()
        assert next(watch) == b"\x08\x02"  # NOT_SERVING
        watch.cancel()
        stopper.join(20)
        assert not stopper.is_alive()


@pytest.mark.parametrize("clients", [1, 8])
def test_batched_answers_equal_unbatched_ones(serve_local, server, expected_scores, room_inputs, tmp_path, clients):
    parameters = tmp_path / "batching.config"
    parameters.write_text(
        "max_batch_size { value: 64 } batch_timeout_micros { value: 3000 } num_batch_threads { value: 2 } "
        "allowed_batch_sizes: [16, 64]"
    )
    batched = serve_local(batching=True, batching_parameters=parameters, waiting=32)
    differences = []

    def ask(number):
        with PredictionClient(batched.address, "m", deadline_s=15) as client:
            for rows in range(1, 12):
                inputs = room_inputs(rows + number, user_id=number)
                answer = client.predict(inputs).outputs
                for name, expected in expected_scores(inputs, 0.0).items():
                    differences.append(float(np.abs(answer[name] - expected).max()))

    with futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
    assert len(differences) == clients * 11 * 2
    assert max(differences) < 1e-6
    with PredictionClient(batched.address, "m", deadline_s=15) as client:
        with pytest.raises(RankingError, match="Task size 65 is larger than maximum input batch size 64") as caught:
            client.predict(room_inputs(65))
        assert caught.value.code == "INVALID_ARGUMENT"
        with pytest.raises(RankingError) as caught:
            client.predict({"user_id": np.zeros(3, np.int64), "context": np.zeros((2, 3), np.float32)})
        assert caught.value.code == "INVALID_ARGUMENT"
