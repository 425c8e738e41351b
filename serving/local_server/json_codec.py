"""JSON of the REST interface <-> arrays by name."""

import base64
import binascii
import itertools
import json
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from serving.local_server.serving_error import invalid_argument

_SHOWN = 256
"""How many characters of a wrong document an error message repeats."""

_REPR = reprlib.Repr()


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object in the body of a request.

    Raises:
        ServingError: INVALID_ARGUMENT if it isn't one.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_shown(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid_argument(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    if "instances" in document and "inputs" in document:
        raise invalid_argument(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist"
        )
    if "instances" not in document and "inputs" not in document:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    return document


def inputs_from_json(document: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs in a document that `parse_body` gave.

    Args:
        expected: Input name -> TensorInfo, of the signature that is called.

    Raises:
        ServingError: INVALID_ARGUMENT if they don't fit.
    """
    if "inputs" in document:
        columns = _columns(document["inputs"], expected)
    else:
        columns = _transposed(document["instances"], expected)
    return {name: _array(name, value, expected[name].dtype) for name, value in columns.items()}


def outputs_to_json(outputs: Mapping[str, np.ndarray], *, by_row: bool) -> bytes:
    """The body of the answer: `predictions`, an entry for each instance, or `outputs`, an entry for each output.

    Raises:
        ServingError: INVALID_ARGUMENT if outputs of different batch sizes are asked for by row.
    """
    values = {name: _plain(name, array) for name, array in outputs.items()}
    single = next(iter(values.values())) if len(values) == 1 else None
    if not by_row:
        return json.dumps({"outputs": values if single is None else single}).encode()
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    if None in sizes.values() or len(set(sizes.values())) != 1:
        raise invalid_argument(
            f"outputs have inconsistent batch sizes {sizes}; ask with 'inputs' instead of 'instances'"
        )
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return json.dumps({"predictions": rows if single is None else single}).encode()


def _columns(inputs: Any, expected: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(inputs, dict) and not _is_base64(inputs):
        for name in expected:
            if name not in inputs:
                raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        for name in inputs:
            if name not in expected:
                raise invalid_argument(f"JSON object: does not have named input: {name}")
        return inputs
    if len(expected) > 1:
        raise invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    return {next(iter(expected)): inputs}


def _transposed(instances: Any, expected: Mapping[str, Any]) -> dict[str, list[Any]]:
    if not isinstance(instances, list):
        raise invalid_argument(f"JSON Value: {_shown(instances)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument("No values in 'instances' array")
    named = isinstance(instances[0], dict) and not _is_base64(instances[0])
    if not named and len(expected) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    for index, instance in enumerate(instances):
        if (isinstance(instance, dict) and not _is_base64(instance)) != named:
            kinds = "object but got list" if named else "value/list but got object"
            raise invalid_argument(f"Expecting {kinds} at item {index} of input list")
        if named and set(instance) != set(expected):
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_shown(instance)} "
                f"keys must be equal to: {','.join(sorted(expected))}"
            )
    if not named:
        return {next(iter(expected)): instances}
    return {name: [instance[name] for instance in instances] for name in expected}


def _array(name: str, value: Any, dtype_code: int) -> np.ndarray:
    dtype = tf.dtypes.as_dtype(dtype_code)
    try:
        array = np.array(_decoded(value) if dtype == tf.string else value, object if dtype == tf.string else None)
        wanted = np.dtype(dtype.as_numpy_dtype)
        if array.size and not _fits(array.dtype.kind, wanted):
            raise ValueError(f"{array.dtype} is not of expected type: {dtype.name}")
        if array.dtype.kind in "iuf" and _has_boolean(value, array.ndim):
            raise ValueError(f"bool is not of expected type: {dtype.name}")
        if array.size and wanted.kind in "iu":
            limits = np.iinfo(wanted)
            if array.min() < limits.min or array.max() > limits.max:
                raise ValueError(f"{array.min()} to {array.max()} is out of range of type {dtype.name}")
        return array.astype(wanted)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise invalid_argument(f"input {name!r}: JSON Value: {_shown(value)}: {error}") from error


def _fits(found: str, wanted: np.dtype) -> bool:
    """Whether JSON values that numpy took for kind `found` may go into a tensor of type `wanted`."""
    return found in {"f": "iuf", "i": "i", "u": "iu", "b": "b", "O": "O"}.get(wanted.kind, "")


def _has_boolean(value: Any, ndim: int) -> bool:
    """Whether a list of `ndim` dimensions holds a boolean, which numpy takes for a number among numbers."""
    entries = iter([value])
    for _ in range(ndim):
        entries = itertools.chain.from_iterable(entries)
    return bool in map(type, entries)


def _decoded(value: Any) -> Any:
    """The value with its strings as bytes, {"b64": ...} decoded."""
    if isinstance(value, list):
        return [_decoded(entry) for entry in value]
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and _is_base64(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"unable to base64 decode: {error}") from error
    raise ValueError(f"{type(value).__name__} is not of expected type: string")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _plain(name: str, array: np.ndarray) -> Any:
    """Nested lists of what JSON can hold. Floats get as few digits as tell them apart, so .2 stays 0.2."""
    if array.dtype == object:
        as_bytes = name.endswith("_bytes")
        flat = [_plain_string(value, as_bytes) for value in array.ravel().tolist()]
        texts = np.empty(array.size, object)
        texts[:] = flat
        return texts.reshape(array.shape).tolist()
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        array = array.astype(str).astype(np.float64)
    return array.tolist()


def _plain_string(value: bytes, as_bytes: bool) -> Any:
    if as_bytes:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode(errors="replace")


def _shown(value: Any) -> str:
    return _REPR.repr(value)[:_SHOWN]
