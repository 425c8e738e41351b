"""TensorProto <-> numpy on the server's side, where the message may hold anything."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from serving.local_server.serving_error import invalid_argument

MAX_TENSOR_BYTES = 64 * 2**20
"""Largest tensor taken from a request. A few bytes can claim any shape: one value may stand for all of a tensor."""

_VALUE_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int16": "int_val",
    "int8": "int_val",
    "uint8": "int_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "object": "string_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
}


def decode_tensor(name: str, proto: Any) -> np.ndarray:
    """The array in `proto`, the input `name` of a request.

    Raises:
        ServingError: INVALID_ARGUMENT if type, shape and values don't fit together, or the tensor is too large.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    try:
        dtype = tf.dtypes.as_dtype(proto.dtype).as_numpy_dtype
    except TypeError as error:
        raise invalid_argument(f"tensor parsing error: {name}: unknown type {proto.dtype}") from error
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise invalid_argument(f"tensor parsing error: {name}: the shape {shape} is not fully known")
    size = math.prod(shape)
    if size * np.dtype(dtype).itemsize > MAX_TENSOR_BYTES:
        raise invalid_argument(f"tensor parsing error: {name}: shape {shape} takes more than {MAX_TENSOR_BYTES} bytes")
    try:
        if proto.tensor_content and dtype is not np.object_:
            return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
        if size and not proto.tensor_content and not _has_values(proto):
            return np.full(shape, b"" if dtype is np.object_ else 0, dtype)  # the format's meaning of "no values"
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {name}: {error}") from error


def encode_tensor(array: np.ndarray, proto: Any) -> None:
    """Fills `proto` with repeated values, as TensorFlow Serving answers: clients may read `float_val` directly."""
    field = _VALUE_FIELDS.get(array.dtype.name)
    if field is None:
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype = tf.dtypes.as_dtype(array.dtype).as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    getattr(proto, field).extend(array.ravel().tolist())


def _has_values(proto: Any) -> bool:
    return any(field.name.endswith("_val") for field, _ in proto.ListFields())
