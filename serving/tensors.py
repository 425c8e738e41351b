"""Numpy arrays <-> TensorProto messages, without TensorFlow."""

import math
from collections.abc import Mapping

import numpy as np

from serving.protos import serving_api_pb2 as api

_VALUE_FIELDS: dict[api.DataType, tuple[type, str]] = {
    api.DT_FLOAT: (np.float32, "float_val"),
    api.DT_DOUBLE: (np.float64, "double_val"),
    api.DT_INT32: (np.int32, "int_val"),
    api.DT_INT64: (np.int64, "int64_val"),
    api.DT_BOOL: (np.bool_, "bool_val"),
    api.DT_STRING: (np.object_, "string_val"),
}
"""Wire code of a type -> numpy type and the field that holds values that don't stand in `tensor_content`."""

_WIRE_CODES = {np.dtype(numpy_type): code for code, (numpy_type, _) in _VALUE_FIELDS.items()}


def to_tensor_proto(array: np.ndarray) -> api.TensorProto:
    """The message for `array` of any shape: float32, float64, int32, int64, bool, or object holding bytes.

    Numbers go as `tensor_content`, which costs microseconds where repeated fields cost milliseconds.

    Raises:
        ValueError: The array has another type.
    """
    proto = api.TensorProto()
    _fill(proto, array)
    return proto


def from_tensor_proto(proto: api.TensorProto) -> np.ndarray:
    """The array that `proto` holds, in either of its two forms: `tensor_content` or repeated values.

    Raises:
        ValueError: The type is unknown here, or the values don't fit the shape.
    """
    if proto.dtype not in _VALUE_FIELDS:
        raise ValueError(f"tensor of type {proto.dtype}; expected one of {sorted(_VALUE_FIELDS)}")
    numpy_type, field = _VALUE_FIELDS[proto.dtype]
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    size = math.prod(shape)
    if proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, np.dtype(numpy_type).newbyteorder("<"))
        values = values.astype(numpy_type, copy=False)
    else:
        values = np.array(getattr(proto, field), numpy_type)
        if values.size == 1 and size > 1:
            values = np.broadcast_to(values, size)  # one value stands for all: the format allows it
    if values.size != size:
        raise ValueError(f"tensor of shape {shape} came with {values.size} values, expected {size}")
    return values.reshape(shape)


def predict_request(
    model_name: str, inputs: Mapping[str, np.ndarray], *, signature_name: str = "serving_default"
) -> api.PredictRequest:
    """The request that asks a model for the outputs of `inputs` (name -> array with the batch first).

    Raises:
        ValueError: An input can't be sent; its name stands in front.
    """
    request = api.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature_name
    for name, array in inputs.items():
        try:
            _fill(request.inputs[name], np.asarray(array))  # in place: a large tensor is copied once
        except (ValueError, TypeError) as error:
            raise ValueError(f"input {name!r}: {error}") from error
    return request


def named_arrays(outputs: Mapping[str, api.TensorProto]) -> dict[str, np.ndarray]:
    """Name -> array of the outputs of a PredictResponse.

    Raises:
        ValueError: As `from_tensor_proto`; the output's name stands in front.
    """
    arrays = {}
    for name, proto in outputs.items():
        try:
            arrays[name] = from_tensor_proto(proto)
        except ValueError as error:
            raise ValueError(f"output {name!r}: {error}") from error
    return arrays


def _fill(proto: api.TensorProto, array: np.ndarray) -> None:
    if (code := _WIRE_CODES.get(array.dtype.newbyteorder("="))) is None:
        known = ", ".join(str(dtype) for dtype in _WIRE_CODES)
        raise ValueError(f"a tensor of type {array.dtype} can't be sent; convert it to one of: {known} (bytes)")
    proto.dtype = code
    dimensions = proto.tensor_shape.dim
    for size in array.shape:
        dimensions.add().size = size
    if code == api.DT_STRING:
        proto.string_val.extend(array.ravel().tolist())
    else:
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        proto.tensor_content = little_endian.tobytes()
