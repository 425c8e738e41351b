"""TensorProto <-> numpy on the server's side, where the message may hold anything."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from serving.local_server.serving_error import invalid_argument

MAX_TENSOR_BYTES = 64 * 2**20
"""Most that the tensors of a request may take together. A few bytes can claim any shape: one value may stand for all
of a tensor."""

_PACKED_AS_IS = {"float32": b"\x2a", "float64": b"\x32"}
"""Tags of float_val and double_val: on the wire their values stand one after the other, as in memory."""

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


def decode_tensors(protos: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of all inputs of a request by name.

    Raises:
        ServingError: As `decode_tensor`; the limit is one of all tensors together.
    """
    arrays, left_bytes = {}, MAX_TENSOR_BYTES
    for name, proto in protos.items():
        arrays[name] = decode_tensor(name, proto, left_bytes)
        left_bytes -= arrays[name].nbytes
    return arrays


def decode_tensor(name: str, proto: Any, most_bytes: int = MAX_TENSOR_BYTES) -> np.ndarray:
    """The array in `proto`, the input `name` of a request.

    Args:
        most_bytes: How large it may be.

    Raises:
        ServingError: INVALID_ARGUMENT if type, shape and values don't fit together, or the tensor is too large.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    try:
        dtype = _numpy_type(proto.dtype)
    except (KeyError, TypeError) as error:  # TensorFlow has types, of resources say, that numpy hasn't
        raise invalid_argument(f"tensor parsing error: {name}: unknown type {proto.dtype}") from error
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise invalid_argument(f"tensor parsing error: {name}: the shape {shape} is not fully known")
    size = math.prod(shape)
    if size * dtype.itemsize > most_bytes:
        raise invalid_argument(
            f"tensor parsing error: {name}: shape {shape} takes more than the {most_bytes} bytes that are left of the "
            f"{MAX_TENSOR_BYTES} for all inputs; send fewer rows in a request"
        )
    try:
        if proto.tensor_content and not dtype.hasobject:
            return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
        if size and not proto.tensor_content and not _has_values(proto):
            return np.full(shape, b"" if dtype.hasobject else 0, dtype)  # the format's meaning of "no values"
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {name}: {error}") from error


def encode_tensor(array: np.ndarray, proto: Any, *, as_content: bool = False) -> None:
    """Fills `proto` with `array`.

    Args:
        as_content: Whether as `tensor_content`. By default the values are repeated, as TensorFlow Serving answers:
            clients may read `float_val` directly.
    """
    field = _VALUE_FIELDS.get(array.dtype.name)
    if field is None:
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    if tag := _PACKED_AS_IS.get(array.dtype.name):
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        proto.MergeFromString(tag + _varint(len(content)) + content)  # a copy, where `extend` looks at each value
    else:
        getattr(proto, field).extend(array.ravel().tolist())
    proto.dtype = _wire_code(array.dtype)
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size


@functools.cache  # there are a few dozen; TensorFlow takes microseconds to find one
def _numpy_type(code: int) -> np.dtype:
    return np.dtype(tf.dtypes.as_dtype(code).as_numpy_dtype)


@functools.cache
def _wire_code(dtype: np.dtype) -> int:
    return tf.dtypes.as_dtype(dtype).as_datatype_enum


def _has_values(proto: Any) -> bool:
    return any(field.name.endswith("_val") for field, _ in proto.ListFields())


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
