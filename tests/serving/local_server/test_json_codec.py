import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import meta_graph_pb2

from serving.local_server.json_codec import inputs_from_json, outputs_to_json, parse_body
from serving.local_server.serving_error import ServingError

_EXPECTED = {
    "user_id": meta_graph_pb2.TensorInfo(dtype=tf.int64.as_datatype_enum),
    "context": meta_graph_pb2.TensorInfo(dtype=tf.float32.as_datatype_enum),
}
_ONE = {"text": meta_graph_pb2.TensorInfo(dtype=tf.string.as_datatype_enum)}


def parse(document, expected=_EXPECTED):
    return inputs_from_json(parse_body(json.dumps(document).encode()), expected)


def test_rows_and_columns_mean_the_same():
    rows = parse({"instances": [{"user_id": 1, "context": [1, 2.5]}, {"user_id": 2, "context": [3, 4]}]})
    columns = parse({"inputs": {"user_id": [1, 2], "context": [[1, 2.5], [3, 4]]}})
    for inputs in (rows, columns):
        assert inputs["user_id"].dtype == np.int64
        assert inputs["user_id"].tolist() == [1, 2]
        assert inputs["context"].dtype == np.float32
        assert inputs["context"].tolist() == [[1, 2.5], [3, 4]]


def test_a_single_input_needs_no_name():
    assert parse({"instances": ["a", {"b64": "/wA="}]}, _ONE)["text"].tolist() == [b"a", b"\xff\x00"]
    assert parse({"inputs": [["a"], ["ü"]]}, _ONE)["text"].tolist() == [[b"a"], ["ü".encode()]]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": 1, "instances": 1}, "only one of"),
        ({"instances": 5}, "to be an list/array"),
        ({"instances": []}, "No values in 'instances'"),
        ({"instances": [1]}, "instances is a plain list, but expecting list of objects"),
        ({"instances": [{"user_id": 1}]}, "keys must be equal to: context,user_id"),
        ({"instances": [{"user_id": 1, "context": [1]}, [1]]}, "Expecting object but got list at item 1"),
        ({"inputs": {"user_id": [1]}}, "Missing named input: context"),
        ({"inputs": {"user_id": [1], "context": [1], "x": 1}}, "does not have named input: x"),
        ({"inputs": [1]}, "inputs is a plain value/list"),
        ({"inputs": {"user_id": [1.5], "context": [1]}}, "float64 is not of expected type: int64"),
        ({"inputs": {"user_id": ["1"], "context": [1]}}, "is not of expected type: int64"),
        ({"inputs": {"user_id": [True], "context": [1]}}, "bool is not of expected type: int64"),
        ({"inputs": {"user_id": [True, 1834], "context": [1]}}, "bool is not of expected type: int64"),
        ({"inputs": {"user_id": [1], "context": [[1.0, 3], [2, False]]}}, "bool is not of expected type: float32"),
        ({"inputs": {"user_id": [2**63], "context": [1]}}, "is not of expected type: int64"),
        ({"inputs": {"user_id": [None], "context": [1]}}, "is not of expected type: int64"),
        ({"inputs": {"user_id": [1], "context": [[1], [1, 2]]}}, "input 'context'.*inhomogeneous"),
        ({"signature_name": 1, "inputs": 1}, "'signature_name' key must be a string"),
    ],
)
def test_wrong_documents_are_refused_with_the_reason(document, message):
    with pytest.raises(ServingError, match=message):
        parse(document)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}"]
)
def test_garbage_is_refused(body):
    with pytest.raises(ServingError):
        inputs_from_json(parse_body(body), _EXPECTED)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("aé=", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["user_id", "context", "b64"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["inputs", "instances", "signature_name"]), _JSON, max_size=2),
    st.sampled_from([0, 1]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_is_read_or_refused(document, which):
    expected = (_EXPECTED, _ONE)[which]
    try:
        inputs = parse(document, expected)
    except ServingError:
        return
    assert set(inputs) == set(expected)
    for name, array in inputs.items():
        assert array.dtype == tf.dtypes.as_dtype(expected[name].dtype).as_numpy_dtype


def test_answers_by_row_and_by_column():
    outputs = {"ctr": np.array([0.1, 0.2], np.float32), "n": np.array([[1, 2], [3, 4]], np.int64)}
    assert outputs_to_json(outputs, by_row=True) == (
        b'{"predictions": [{"ctr": 0.1, "n": [1, 2]}, {"ctr": 0.2, "n": [3, 4]}]}'
    )
    assert json.loads(outputs_to_json(outputs, by_row=False)) == {"outputs": {"ctr": [0.1, 0.2], "n": [[1, 2], [3, 4]]}}
    assert json.loads(outputs_to_json({"ctr": outputs["ctr"]}, by_row=True)) == {"predictions": [0.1, 0.2]}
    assert json.loads(outputs_to_json({"ctr": outputs["ctr"]}, by_row=False)) == {"outputs": [0.1, 0.2]}


def test_bytes_are_base64_where_the_name_says_so():
    text = np.array([b"a", b"\xff"], object)
    answer = json.loads(outputs_to_json({"t": text, "t_bytes": text}, by_row=False))
    assert answer == {"outputs": {"t": ["a", "�"], "t_bytes": [{"b64": "YQ=="}, {"b64": "/w=="}]}}


def test_rows_need_one_batch_size():
    with pytest.raises(ServingError, match="inconsistent batch sizes"):
        outputs_to_json({"a": np.zeros(2), "b": np.zeros(3)}, by_row=True)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_come_back_exactly(values):
    array = np.array(values, np.float32)
    answer = json.loads(outputs_to_json({"x": array}, by_row=False))["outputs"]
    np.testing.assert_array_equal(np.array(answer, np.float32), array)
