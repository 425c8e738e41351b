import subprocess
import sys
from pathlib import Path

import pytest

from serving.protos import serving_api_pb2 as api

ROOT = Path(__file__).parents[2]


def _check(ours, theirs, path):
    """Field numbers, names and types are a subset of the original's, recursively: that is all the wire knows."""
    for field in ours.fields:
        assert field.number in theirs.fields_by_number, f"{path}.{field.name}"
        original = theirs.fields_by_number[field.number]
        assert (field.name, field.is_repeated) == (original.name, original.is_repeated), f"{path}.{field.name}"
        enum_as_integer = {field.type, original.type} <= {field.TYPE_INT32, field.TYPE_ENUM}
        assert field.type == original.type or enum_as_integer, f"{path}.{field.name}"
        if field.message_type is not None:
            _check(field.message_type, original.message_type, f"{path}.{field.name}")


def test_messages_have_the_shape_of_tensorflow_servings():
    from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, predict_pb2

    for ours, theirs in [
        (api.PredictRequest, predict_pb2.PredictRequest),
        (api.PredictResponse, predict_pb2.PredictResponse),
        (api.GetModelStatusRequest, get_model_status_pb2.GetModelStatusRequest),
        (api.GetModelStatusResponse, get_model_status_pb2.GetModelStatusResponse),
        (api.ReloadConfigRequest, model_management_pb2.ReloadConfigRequest),
        (api.ReloadConfigResponse, model_management_pb2.ReloadConfigResponse),
    ]:
        _check(ours.DESCRIPTOR, theirs.DESCRIPTOR, ours.DESCRIPTOR.name)


def test_enums_have_the_values_of_tensorflow():
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import get_model_status_pb2

    for name, value in api.DataType.items():
        assert types_pb2.DataType.Value(name) == value
    assert dict(api.ModelVersionStatus.State.items()) == dict(get_model_status_pb2.ModelVersionStatus.State.items())


def test_checked_in_code_is_what_the_compiler_makes(tmp_path):
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools; run `make setup`, then `make test`")
    subprocess.run([sys.executable, "-m", "serving.protos.compile", str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    for name in ("serving_api_pb2.py", "serving_api_pb2.pyi"):
        made = (tmp_path / "serving/protos" / name).read_text()
        assert made == (ROOT / "serving/protos" / name).read_text(), f"run python -m serving.protos.compile for {name}"
