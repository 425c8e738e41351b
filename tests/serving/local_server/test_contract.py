"""What TensorFlow Serving answers over gRPC, asked of every server there is here."""

import itertools
import shutil
import threading
import time

import grpc
import numpy as np
import pytest

from serving.prediction_client import PredictionClient
from serving.ranking_error import RankingError
from serving.tensors import predict_request

_NUMBERS = itertools.count(1)


@pytest.fixture
def base(tmp_path):
    """Folder of a model whose name, the folder's, no other test uses: a server remembers the versions of a name."""
    return tmp_path / f"ranker-{next(_NUMBERS)}"


@pytest.fixture
def stub(served):
    """Method -> callable with TensorFlow Serving's own messages."""
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    with grpc.insecure_channel(served.running.address) as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        model = model_service_pb2_grpc.ModelServiceStub(channel)
        yield {**vars(prediction), **vars(model)}


def wait_until_gone(served, name, version):
    end = time.monotonic() + 15
    while served.service.status(name)[version].state != "END":
        assert time.monotonic() < end, served.service.status(name)
        time.sleep(0.05)


def test_predict_answers_with_version_signature_and_scores(served, stub, base, place, room_inputs, expected_scores):
    from tensorflow_serving.apis import predict_pb2

    place(base, 3, 0.5)
    served.serve(base.name, base)
    inputs = room_inputs(4)
    request = predict_pb2.PredictRequest.FromString(predict_request(base.name, inputs).SerializeToString())
    request.model_spec.ClearField("signature_name")
    response = stub["Predict"](request, timeout=10)
    assert response.model_spec.name == base.name
    assert response.model_spec.version.value == 3
    assert response.model_spec.signature_name == "serving_default"
    assert sorted(response.outputs) == ["ctr", "gtr"]
    for name, expected in expected_scores(inputs, 0.5).items():
        np.testing.assert_allclose(list(response.outputs[name].float_val), expected, rtol=1e-5)


def test_repeated_values_are_taken_as_well_as_tensor_content(served, stub, base, place, room_inputs, expected_scores):
    from tensorflow_serving.apis import predict_pb2

    place(base, 1, 0.0)
    served.serve(base.name, base)
    inputs = room_inputs(2, user_id=5)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = base.name
    user = request.inputs["user_id"]
    user.dtype = 9
    user.tensor_shape.dim.add(size=2)
    user.int64_val.append(5)  # one value stands for all
    context = request.inputs["context"]
    context.dtype = 1
    context.tensor_shape.dim.add(size=2)
    context.tensor_shape.dim.add(size=3)
    context.float_val.extend(inputs["context"].ravel().tolist())
    response = stub["Predict"](request, timeout=10)
    np.testing.assert_allclose(response.outputs["gtr"].float_val, expected_scores(inputs, 0.0)["gtr"], rtol=1e-5)


def test_output_filter_and_signatures(served, stub, base, place, room_inputs):
    from tensorflow_serving.apis import predict_pb2

    place(base, 1, 0.0)
    client = served.serve(base.name, base)
    request = predict_pb2.PredictRequest.FromString(predict_request(base.name, room_inputs(2)).SerializeToString())
    request.output_filter.append("gtr")
    assert list(stub["Predict"](request, timeout=10).outputs) == ["gtr"]
    request.output_filter.append("gtr")
    with pytest.raises(grpc.RpcError, match="duplicate output tensor alias: gtr"):
        stub["Predict"](request, timeout=10)
    request.output_filter[:] = ["cvr"]
    with pytest.raises(grpc.RpcError, match="output tensor alias not found in signature: cvr"):
        stub["Predict"](request, timeout=10)
    plain = client.predict({"context": np.zeros((2, 3), np.float32)}, signature_name="plain")
    assert plain.outputs["score"].tolist() == [0.5, 0.5]
    text = np.array([b"a", b"\xff"], object)
    assert client.predict({"text": text}, signature_name="strings").outputs["text"].tolist() == [b"a", b"\xff"]


@pytest.mark.parametrize(
    ("model", "choice", "inputs", "code", "message"),
    [
        ("none", {}, {}, "NOT_FOUND", r"Servable not found for request: Latest\(none\)"),
        (None, {"version": 9}, {}, "NOT_FOUND", r"Servable not found for request: Specific\(ranker-\d+, 9\)"),
        (None, {"label": "x"}, {}, "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (None, {"signature_name": "x"}, {}, "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (
            None,
            {},
            {"context": np.zeros((1, 3), np.float32)},
            "INVALID_ARGUMENT",
            r"input size does not match signature: 1!=2 .*Missing but required: \{user_id\}",
        ),
        (
            None,
            {},
            {name: np.zeros(1, np.int64) for name in ("user_id", "context", "other")},
            "INVALID_ARGUMENT",
            r"input size does not match signature: 3!=2 .*Sent extra: \{other\}",
        ),
        (None, {}, {"context": np.zeros(1), "user_id": np.zeros(1)}, "INVALID_ARGUMENT", "."),
        (
            None,
            {},
            {"context": np.zeros((1, 2), np.float32), "user_id": np.zeros(1, np.int64)},
            "INVALID_ARGUMENT",
            ".",
        ),
        (
            None,
            {},
            {"context": np.zeros((2, 3), np.float32), "user_id": np.zeros(3, np.int64)},
            "INVALID_ARGUMENT",
            ".",
        ),
    ],
)
def test_errors_of_predict(served, base, place, model, choice, inputs, code, message):
    place(base, 1, 0.0)
    served.serve(base.name, base)
    with (
        PredictionClient(served.running.address, model or base.name, deadline_s=10) as client,
        pytest.raises(RankingError, match=message) as caught,
    ):
        client.predict(inputs, **choice)
    assert caught.value.code == code


@pytest.mark.parametrize("shape", [[2**40], [-1], [2**62, 8], [5]])
def test_a_tensor_whose_values_do_not_make_its_shape_is_refused(served, stub, base, place, room_inputs, shape):
    from tensorflow_serving.apis import predict_pb2

    place(base, 1, 0.0)
    served.serve(base.name, base)
    request = predict_pb2.PredictRequest.FromString(predict_request(base.name, room_inputs(2)).SerializeToString())
    request.inputs["user_id"].tensor_shape.ClearField("dim")
    for size in shape:
        request.inputs["user_id"].tensor_shape.dim.add(size=size)
    with pytest.raises(grpc.RpcError) as caught:
        stub["Predict"](request, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_holds_the_signatures(served, stub, base, place):
    from tensorflow_serving.apis import get_model_metadata_pb2

    place(base, 2, 0.0)
    served.serve(base.name, base)
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = base.name
    response = stub["GetModelMetadata"](request, timeout=10)
    assert (response.model_spec.name, response.model_spec.version.value) == (base.name, 2)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "plain", "strings"} <= set(signatures.signature_def)
    assert sorted(signatures.signature_def["serving_default"].inputs) == ["context", "user_id"]
    for fields, message in (([], "must specify at least one metadata_field"), (["x"], "Metadata field x is not")):
        request.metadata_field[:] = fields
        with pytest.raises(grpc.RpcError, match=message) as caught:
            stub["GetModelMetadata"](request, timeout=10)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_status_of_versions(served, stub, base, place):
    from tensorflow_serving.apis import get_model_status_pb2

    place(base, 4, 0.0)
    place(base, 5, 0.0)
    served.serve(base.name, base, latest=2)
    served.wait(base.name, 4)
    assert {v: s.state for v, s in served.service.status(base.name).items()} == {5: "AVAILABLE", 4: "AVAILABLE"}
    request = get_model_status_pb2.GetModelStatusRequest()
    with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
        stub["GetModelStatus"](request, timeout=10)
    request.model_spec.name = base.name
    request.model_spec.version.value = 4
    assert [entry.version for entry in stub["GetModelStatus"](request, timeout=10).model_version_status] == [4]
    request.model_spec.version.value = 6
    with pytest.raises(grpc.RpcError, match=f"Could not find version 6 of model {base.name}"):
        stub["GetModelStatus"](request, timeout=10)
    with pytest.raises(RankingError, match="Could not find any versions of model none"):
        served.service.status("none")


def test_a_new_version_takes_over_under_load_without_an_error(served, base, place, room_inputs, expected_scores):
    """Four clients ask on and on while two versions are pushed: no error, no wrong score, no way back."""
    place(base, 1, 0.0)
    client = served.serve(base.name, base)
    inputs = room_inputs(20)
    expected = {version: expected_scores(inputs, bias)["ctr"] for version, bias in ((1, 0.0), (2, 1.0), (3, -1.0))}
    answers: list[list[int]] = [[] for _ in range(4)]
    failures: list[str] = []
    stop = threading.Event()

    def ask(mine):
        while not stop.is_set():
            try:
                prediction = client.predict(inputs)
                np.testing.assert_allclose(prediction.outputs["ctr"], expected[prediction.version], rtol=1e-5)
                mine.append(prediction.version)
            except (RankingError, AssertionError) as error:
                failures.append(str(error))

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in answers]
    for thread in threads:
        thread.start()
    try:
        for version, bias in ((2, 1.0), (3, -1.0)):
            time.sleep(0.3)
            place(base, version, bias)
            served.wait(base.name, version)
        wait_until_gone(served, base.name, 2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert sum(map(len, answers)) > 200
    for mine in answers:
        assert mine == sorted(mine)
        assert set(mine) == {1, 2, 3}


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(served, base, place, room_inputs):
    place(base, 1, 0.0)
    client = served.serve(base.name, base)
    broken = base / ".broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"this is no model")
    broken.rename(base / "2")
    end = time.monotonic() + 20
    while 2 not in served.service.status(base.name):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1.5)
    assert served.service.status(base.name)[2].state in ("LOADING", "END")
    assert client.predict(room_inputs(1)).version == 1
    if served.running.kind != "local":
        return  # the real server does not look at a newer version while it retries, five minutes long
    with pytest.raises(RankingError, match=f"version 2 of model '{base.name}' failed to load"):
        served.wait(base.name, 2)
    place(base, 3, 1.0)
    served.wait(base.name, 3)
    assert client.predict(room_inputs(1)).version == 3


def test_policies_and_labels(served, base, place, room_inputs):
    for version in (1, 2, 3):
        place(base, version, float(version))
    inputs = room_inputs(1)
    client = served.serve(base.name, base, specific=[1, 3])
    served.wait(base.name, 1)
    served.wait(base.name, 3)
    assert client.predict(inputs).version == 3
    with pytest.raises(RankingError, match=rf"Specific\({base.name}, 2\)"):
        client.predict(inputs, version=2)
    served.serve(base.name, base, specific=[1, 3], labels={"stable": 1, "canary": 3})
    assert client.predict(inputs, label="stable").version == 1
    assert client.predict(inputs, label="canary").version == 3
    with pytest.raises(
        RankingError, match=f"label to version 2 of model {base.name}, which is not currently"
    ) as caught:
        served.serve(base.name, base, specific=[1, 2, 3], labels={"stable": 2})
    assert caught.value.code == "FAILED_PRECONDITION"
    served.serve(base.name, base, all=True)
    served.wait(base.name, 2)
    assert client.predict(inputs, version=2).version == 2
    with pytest.raises(RankingError, match="Unrecognized servable version label: stable"):
        client.predict(inputs, label="stable")  # the new configuration has no labels
    served.serve(base.name, base)
    wait_until_gone(served, base.name, 1)
    wait_until_gone(served, base.name, 2)
    assert client.predict(inputs).version == 3


def test_reload_replaces_the_whole_list(served, base, place, room_inputs):
    place(base, 1, 0.0)
    place(base.parent / "other", 1, 0.0)
    first = served.serve(base.name, base)
    second = served.serve("other", base.parent / "other")
    assert second.predict(room_inputs(1)).version == 1
    wait_until_gone(served, base.name, 1)
    with pytest.raises(RankingError, match=rf"Latest\({base.name}\)"):
        first.predict(room_inputs(1))


def test_reload_refuses_what_it_cannot_do(served, base, place, room_inputs):
    place(base, 1, 0.0)
    client = served.serve(base.name, base)
    config = served.config(base.name, base)
    with pytest.raises(RankingError, match=f"Illegal to list model {base.name} multiple times") as caught:
        served.service.reload([config, config])
    assert caught.value.code == "INVALID_ARGUMENT"
    with pytest.raises(RankingError, match="to have an absolute path or URI; got"):
        served.service.reload([served.config(base.name, base.relative_to("/"))])
    config.model_platform = ""
    with pytest.raises(RankingError, match="Illegal setting neither"):
        served.service.reload([config])
    assert client.predict(room_inputs(1)).version == 1


def test_a_deleted_version_is_unloaded_and_the_one_before_comes_back(served, base, place, room_inputs):
    place(base, 1, 0.0)
    place(base, 2, 0.0)
    client = served.serve(base.name, base)
    assert client.predict(room_inputs(1)).version == 2
    shutil.rmtree(base / "2")
    served.wait(base.name, 1)
    wait_until_gone(served, base.name, 2)
    assert client.predict(room_inputs(1)).version == 1


def test_names_that_are_no_numbers_are_no_versions(served, base, place, room_inputs):
    place(base, 1, 0.0)
    for name in (".publish-x", "2.tmp", "v3", "99999999999999999999", "latest"):
        (base / name).mkdir()
    client = served.serve(base.name, base)
    assert client.predict(room_inputs(1)).version == 1
    assert set(served.service.status(base.name)) == {1}


@pytest.mark.parametrize(
    ("service", "status"), [("", 1), ("ModelService", 1), ("PredictionService", 1), ("other", None)]
)
def test_health(served, service, status):
    """grpc.health.v1: 1 is SERVING; Watch answers for an unknown service, with SERVICE_UNKNOWN, and waits."""
    from serving.protos import server_config_pb2

    message = server_config_pb2.HealthCheckRequest(service=service).SerializeToString()
    read = server_config_pb2.HealthCheckResponse.FromString
    with grpc.insecure_channel(served.running.address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", response_deserializer=read)
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch", response_deserializer=read)
        try:
            found = check(message, timeout=10).status
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                pytest.skip("the server was started without --enable_grpc_healthcheck_service=true")
            assert error.code() == grpc.StatusCode.NOT_FOUND
            found = None
        assert found == status
        watching = watch(message, timeout=10)
        assert next(watching).status == (status or 3)
        watching.cancel()


@pytest.mark.parametrize("method", ["Predict", "GetModelMetadata"])
def test_bytes_that_are_no_message_are_an_internal_error(served, method):
    with grpc.insecure_channel(served.running.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")(b"\xff" * 100, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


def test_an_unknown_method_is_unimplemented(served):
    with grpc.insecure_channel(served.running.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/Explain")(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_push_of_new_variables_answers_with_them(served, base, place, export_model, room_inputs, expected_scores):
    """The graph is the same file, as the publisher of checkpoints links it; a dozen versions in a row."""
    place(base, 1, 0.0)
    client = served.serve(base.name, base, latest=2)
    inputs = room_inputs(7)
    for version in range(2, 8):
        bias = 1.0 if version % 2 else -1.0
        beside = base / ".beside"
        shutil.copytree(export_model(bias), beside)
        (beside / "saved_model.pb").unlink()
        (beside / "saved_model.pb").hardlink_to(base / "1" / "saved_model.pb")
        beside.rename(base / str(version))
        served.wait(base.name, version)
        for asked, expected in ((version, bias), (version - 1, 0.0 if version == 2 else -bias)):
            answer = client.predict(inputs, version=asked)
            np.testing.assert_allclose(answer.outputs["ctr"], expected_scores(inputs, expected)["ctr"], rtol=1e-5)


def test_predict_without_a_model_name(served, stub):
    from tensorflow_serving.apis import predict_pb2

    with pytest.raises(grpc.RpcError, match="ModelSpec has no name specified") as caught:
        stub["Predict"](predict_pb2.PredictRequest(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
