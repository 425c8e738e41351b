"""The REST interface of every server there is here."""

import http.client
import itertools
import json
import socket

import numpy as np
import pytest

_NUMBERS = itertools.count(1)


@pytest.fixture
def base(served, tmp_path, place):
    """A model of its own name, versions 1 (bias 0) and 2 (bias 1), both served."""
    base = tmp_path / f"rest-{next(_NUMBERS)}"
    place(base, 1, 0.0)
    place(base, 2, 1.0)
    served.serve(base.name, base, latest=2)
    served.wait(base.name, 1)
    served.serve(base.name, base, latest=2, labels={"stable": 1})
    return base


@pytest.fixture
def call(served):
    """(method, path, body) -> (HTTP status, document)."""
    if served.running.rest_address is None:
        pytest.skip("the REST address isn't known; set TF_SERVING_REST_ADDRESS beside TF_SERVING_ADDRESS")

    def request(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(served.running.rest_address, timeout=30)
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, json.loads(text) if "json" in response.getheader("Content-Type", "") else text

    return request


def test_predict_by_row_and_by_column(call, base, room_inputs, expected_scores):
    inputs = room_inputs(3)
    expected = expected_scores(inputs, 1.0)
    columns = {name: array.tolist() for name, array in inputs.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    status, answer = call("POST", f"/v1/models/{base.name}:predict", {"instances": rows})
    assert status == 200
    np.testing.assert_allclose([row["ctr"] for row in answer["predictions"]], expected["ctr"], rtol=1e-5)
    status, answer = call("POST", f"/v1/models/{base.name}:predict", {"inputs": columns})
    assert status == 200
    np.testing.assert_allclose(answer["outputs"]["gtr"], expected["gtr"], rtol=1e-5)


def test_versions_labels_and_signatures(call, base):
    for where, score in (("/versions/1", 0.5), ("/labels/stable", 0.5), ("", 0.731)):
        body = {"signature_name": "plain", "instances": [[0, 0, 0]]}
        status, answer = call("POST", f"/v1/models/{base.name}{where}:predict", body)
        assert (status, list(answer)) == (200, ["predictions"])
        assert answer["predictions"] == pytest.approx([score], abs=1e-3)
    body = {"signature_name": "strings", "instances": ["a", {"b64": "/wA="}]}
    status, answer = call("POST", f"/v1/models/{base.name}:predict", body)
    assert status == 200
    assert [row["text_bytes"] for row in answer["predictions"]] == [{"b64": "YQ=="}, {"b64": "/wA="}]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/none:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(none)"),
        ("{model}/versions/7:predict", {"instances": [1]}, 404, "Servable not found for request: Specific("),
        ("{model}/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
        ("{model}:predict", b"", 400, "JSON Parse error"),
        ("{model}:predict", b"{", 400, "JSON Parse error"),
        ("{model}:predict", b"\xff\xfe\x00garbage", 400, "JSON Parse error"),
        ("{model}:predict", b"[" * 100_000, 400, "JSON Parse error"),
        ("{model}:predict", [1], 400, "Is not object"),
        ("{model}:predict", {"x": 1}, 400, "Missing 'inputs' or 'instances' key"),
        ("{model}:predict", {"instances": 1}, 400, "Expecting 'instances' to be an list/array"),
        ("{model}:predict", {"instances": [{"user_id": 1}]}, 400, "keys must be equal to: context,user_id"),
        ("{model}:predict", {"inputs": {"user_id": [1]}}, 400, "Missing named input: context in 'inputs' object."),
        ("{model}:predict", {"inputs": {"user_id": [1.5], "context": [[1, 2, 3]]}}, 400, ""),
        ("{model}:predict", {"inputs": {"user_id": [1], "context": [[1, 2]]}}, 400, ""),
        ("{model}:predict", {"signature_name": "x", "instances": [1]}, 400, 'Serving signature name: "x" not found'),
        ("{model}:explain", {"instances": [1]}, 400, "Malformed request: POST"),
        ("{model}", {"instances": [1]}, 400, "Malformed request: POST"),
    ],
)
def test_errors_are_json_with_a_fitting_status(call, base, path, body, status, message):
    got, answer = call("POST", path.format(model=f"/v1/models/{base.name}"), body)
    assert got == status
    assert list(answer) == ["error"]
    assert message in answer["error"]


def test_status_and_metadata(call, base):
    status, answer = call("GET", f"/v1/models/{base.name}")
    assert status == 200
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert answer == {"model_version_status": [{"version": "2", **available}, {"version": "1", **available}]}
    status, answer = call("GET", f"/v1/models/{base.name}/versions/1")
    assert answer == {"model_version_status": [{"version": "1", **available}]}
    status, answer = call("GET", f"/v1/models/{base.name}/versions/9")
    assert status == 404
    status, answer = call("GET", f"/v1/models/{base.name}/metadata")
    assert status == 200
    assert answer["model_spec"]["version"] == "2"
    inputs = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert inputs["context"]["dtype"] == "DT_FLOAT"
    assert [size["size"] for size in inputs["context"]["tensor_shape"]["dim"]] == ["-1", "3"]


def test_metrics_count_requests(call, base, served, room_inputs):
    def count(status):
        line = f':tensorflow:serving:request_count{{model_name="{base.name}",status="{status}"}} '
        page = call("GET", "/monitoring/prometheus/metrics")[1]
        return sum(int(text.removeprefix(line)) for text in page.splitlines() if text.startswith(line))

    body = {"signature_name": "plain", "instances": [[0, 0, 0]]}
    call("POST", f"/v1/models/{base.name}:predict", body)
    before = count("OK")
    for _ in range(3):
        assert call("POST", f"/v1/models/{base.name}:predict", body)[0] == 200
    assert count("OK") == before + 3
    page = call("GET", "/monitoring/prometheus/metrics")[1]
    assert (
        f':tensorflow:serving:request_latency_count{{model_name="{base.name}",API="Predict",entrypoint="REST"}}' in page
    )


def test_connections_stay_open_and_answers_come_at_once(served, base, call):
    connection = http.client.HTTPConnection(served.running.rest_address, timeout=10)
    body = json.dumps({"signature_name": "plain", "instances": [[0, 0, 0]]})
    sockets = set()
    for _ in range(5):
        connection.request("POST", f"/v1/models/{base.name}:predict", body)
        assert connection.getresponse().read()
        sockets.add(connection.sock)
    connection.close()
    assert len(sockets) == 1


@pytest.fixture
def local_only(served):
    if served.running.kind != "local":
        pytest.skip("says how the local server guards itself")


@pytest.mark.usefixtures("local_only")
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"413"),
        (
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 20 + b"9" * 11 + b"\r\n\r\n",
            b"413",
        ),
        (
            b"POST /v1/models/none:predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 5000 + b"2\r\n\r\n{}",
            b"400",
        ),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}", b"400"),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nContent-Length : 40\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nX\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /v1/models/m HTTP/1.1\r\n X: y\r\n\r\n", b"400"),
        (b"GET /v1/models/m HTTP/1.1\r\n: y\r\n\r\n", b"400"),
        (b"BREW /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n", b"501"),
        (b"DELETE /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /v1/models/m/versions/99999999999999999999 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /v1/models/m/versions/" + b"9" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_proper_request_gets_a_json_error(served, head, status):
    host, port = served.running.rest_address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _, rest = answer.partition(b"\r\n")
    assert first.split()[1] == status
    assert list(json.loads(rest.partition(b"\r\n\r\n")[2])) == ["error"]


@pytest.mark.usefixtures("local_only")
def test_a_large_body_is_taken_after_expect_100(call, base):
    rows = 100_000
    body = {"signature_name": "plain", "inputs": [[0, 0, 0]] * rows}
    status, answer = call("POST", f"/v1/models/{base.name}:predict", body, {"Expect": "100-continue"})
    assert (status, len(answer["outputs"])) == (200, rows)
