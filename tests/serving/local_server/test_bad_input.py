"""What is no proper request gets the right status or none, and the local server lives."""

import contextlib
import json
import os
import socket
import struct
import threading
import time
import tracemalloc

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from serving.local_server.serving_error import ServingError
from serving.prediction_client import PredictionClient
from serving.ranking_error import RankingError
from serving.tensors import predict_request

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(autouse=True)
def still_answers(plain_server, room_inputs):
    """After each test, both interfaces answer as before."""
    yield
    with PredictionClient(plain_server.address, "m", deadline_s=10) as client:
        assert client.predict(room_inputs(2)).version == 1
    end = time.monotonic() + 5
    while (status := rest(plain_server, b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n")[0]) != 200:
        assert status in (503, None) and time.monotonic() < end  # connections of the test are still being closed
        time.sleep(0.02)


def connect(server):
    host, port = server.rest_address.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_answer(connection):
    """(status, document); (None, None) if the connection was closed without an answer."""
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if not answer:
        return None, None
    return int(answer.split()[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


def rest(server, content):
    with connect(server) as connection:
        with contextlib.suppress(OSError):  # a connection that is refused may be closed by now
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        try:
            return read_answer(connection)
        except ConnectionResetError:
            return None, None


@pytest.mark.parametrize("seed", range(4))
def test_garbage_on_both_ports(plain_server, seed):
    garbage = np.random.default_rng(seed).bytes(3000)
    for address in (plain_server.address, plain_server.rest_address):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # whatever it answers, it ends the connection
                pass


@pytest.mark.parametrize("method", ["Predict", "GetModelMetadata"])
def test_garbage_for_a_message_is_an_error_of_the_call(plain_server, method):
    with grpc.insecure_channel(plain_server.address) as channel:
        call = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xfe\xfd" * 50, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


def test_a_message_that_claims_2_gb_is_refused_before_it_comes(plain_server, raw_call):
    call = raw_call(plain_server.address, PREDICT)
    call.send(struct.pack(">BI", 0, 2**31 - 1) + b"x" * 100)
    assert b"grpc-status\x018" in call.trailers()  # RESOURCE_EXHAUSTED


def test_a_message_above_the_limit_is_refused(plain_server):
    inputs = {"user_id": np.zeros(200_000, np.int64), "context": np.zeros((200_000, 3), np.float32)}
    with PredictionClient(plain_server.address, "m", deadline_s=10) as client:
        with pytest.raises(RankingError, match="larger than max") as caught:
            client.predict(inputs)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n"
    status, document = rest(plain_server, head)
    assert (status, document["error"]) == (413, "body of 1048577 bytes; at most 1048576 are taken")


def test_a_grpc_message_that_does_not_come_ends_the_call(plain_server, raw_call):
    call = raw_call(plain_server.address, PREDICT)
    begin = time.monotonic()
    call.send(struct.pack(">BI", 0, 1000) + b"x" * 100)
    assert b"grpc-status\x014" in call.trailers()  # DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 5


def test_a_grpc_call_without_a_message_ends(plain_server, raw_call):
    call = raw_call(plain_server.address, PREDICT)
    call.send(b"", end=True)
    assert b"grpc-status\x0213" in call.trailers()  # INTERNAL


def test_many_half_sent_calls_hold_nobody_up(plain_server, raw_call, room_inputs):
    for _ in range(50):
        raw_call(plain_server.address, PREDICT).send(struct.pack(">BI", 0, 1000) + b"x")
    with PredictionClient(plain_server.address, "m", deadline_s=5) as client:
        assert client.predict(room_inputs(2)).version == 1


def test_connections_that_say_nothing_are_closed(plain_server):
    """Also what a client leaves that went away without a word: nothing comes, and nobody reads."""
    with connect(plain_server) as connection:
        assert read_answer(connection) == (None, None)
    host, port = plain_server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        while connection.recv(65536):  # the server's settings, then the end, for want of a handshake
            pass


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /v1/mod",
        b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n",
        b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
    ],
    ids=["line", "headers", "body"],
)
def test_a_rest_request_that_dribbles_in_is_cut_off(plain_server, beginning):
    """A byte now and then doesn't buy more time."""
    begin = time.monotonic()
    with connect(plain_server) as connection:
        connection.sendall(beginning)
        connection.settimeout(0.05)
        received = b""
        while time.monotonic() < begin + 5:
            try:
                connection.sendall(b"x")
                part = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break  # closed, and reset because of what was sent after
            if not part:
                break
            received += part
    assert time.monotonic() - begin < 4
    assert received.split()[1] == b"408"
    assert b"did not arrive within 0.5 s" in received


def test_more_connections_than_are_allowed_are_refused(plain_server):
    held = [connect(plain_server) for _ in range(4)]
    try:
        for connection in held:
            connection.sendall(b"GET ")
        with connect(plain_server) as connection:
            status, document = read_answer(connection)
        assert (status, document) == (503, {"error": "4 connections are open, no more are taken"})
    finally:
        for connection in held:
            connection.close()


def test_a_client_that_does_not_read_its_answers_is_left(serve_local):
    """It asks on and on until the answers fill what the kernel holds for it, and the server can't send any more."""
    server = serve_local(request_s=0.3, idle_s=60.0, rest_connections=1)
    question = b"GET /v1/models/m/metadata HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(server) as connection:
        connection.settimeout(0.2)
        with contextlib.suppress(OSError):
            connection.sendall(question * 50_000)
        end = time.monotonic() + 10
        while rest(server, question)[0] != 200:
            assert time.monotonic() < end, "its connection is still held"
            time.sleep(0.02)


def claim(tensor, *shape):
    """A tensor of int64 that claims a shape, and has one value."""
    tensor.Clear()
    tensor.dtype = 9
    tensor.int64_val.append(1)  # stands for all values
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)


@pytest.mark.parametrize("shape", [[2**40], [2**31, 2**31], [-1]])
def test_a_tensor_that_claims_a_huge_shape_costs_nothing(plain_server, room_inputs, shape):
    request = predict_request("m", room_inputs(2))
    claim(request.inputs["user_id"], *shape)
    with grpc.insecure_channel(plain_server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PREDICT)(request.SerializeToString(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("code", [0, 20, 21, 99, 120])
def test_a_tensor_of_a_type_without_values_is_refused(plain_server, code):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "strings"
    request.inputs["text"].dtype = code
    request.inputs["text"].tensor_shape.dim.add(size=1)
    with grpc.insecure_channel(plain_server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PREDICT)(request.SerializeToString(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"tensor parsing error: text: unknown type {code}" in caught.value.details()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"invented {number}" for number in range(40)], "input size does not match signature"),
        (["user_id", "context"], r": shape \[7864320\] takes more than the 4194304 bytes that are left"),
    ],
    ids=["invented", "known"],
)
def test_many_tensors_take_no_more_than_one(plain_server, names, message):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    for name in names:
        claim(request.inputs[name], 60 * 2**20 // 8)
    tracemalloc.start()
    try:
        with pytest.raises(ServingError, match=message) as caught:
            plain_server._predictor.predict(request)
        assert tracemalloc.get_traced_memory()[1] <= 65 * 2**20
    finally:
        tracemalloc.stop()
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_invented_names_make_no_metrics(plain_server):
    with grpc.insecure_channel(plain_server.address) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")
        for number in range(20):
            request = get_model_metadata_pb2.GetModelMetadataRequest()
            request.model_spec.name = f"invented-{number}"
            with pytest.raises(grpc.RpcError) as caught:
                call(request.SerializeToString(), timeout=10)  # no field: refused before the name is looked up
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    head = b"POST /v1/models/invented-rest:classify HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    assert rest(plain_server, head)[0] == 501
    page = plain_server._metrics.page()
    assert "invented" not in page
    assert 'request_count{model_name="",status="INVALID_ARGUMENT"}' in page


def test_a_connection_that_gets_no_thread_gives_its_place_back(serve_local, monkeypatch):
    server = serve_local(rest_connections=1)
    question = b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n"

    def fail(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        assert rest(server, question) == (None, None)
    assert rest(server, question)[0] == 200


def test_random_requests_never_end_the_server(plain_server, room_inputs):
    """Valid requests with bytes changed at random: any status but OK with wrong shapes, and never UNAVAILABLE."""
    good = predict_request("m", room_inputs(3)).SerializeToString()
    generator = np.random.default_rng(int(os.environ.get("SEED", "7")))
    with grpc.insecure_channel(plain_server.address) as channel:
        call = channel.unary_unary(PREDICT)
        for _ in range(300):
            changed = bytearray(good)
            for place in generator.integers(0, len(good), generator.integers(1, 5)):
                changed[place] = generator.integers(0, 256)
            try:
                call(bytes(changed), timeout=10)
            except grpc.RpcError as error:
                assert error.code() in (
                    grpc.StatusCode.INTERNAL,
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.NOT_FOUND,
                    grpc.StatusCode.FAILED_PRECONDITION,
                ), error
