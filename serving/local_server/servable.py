"""Servable: one loaded version of a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.local_server.serving_error import ServingError, invalid_argument
from serving.local_server.tensor_codec import decode_tensor

DEFAULT_SIGNATURE = "serving_default"
WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_WARM_UP_RECORDS = 1000

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Servable:
    """A SavedModel in a graph and session of its own, loaded by the loader that TensorFlow Serving uses.

    That loader refuses exports that only `tf.saved_model.load` can read. The session's callables also disturb requests
    less than concrete functions do while another version loads. Safe to use from many threads.
    """

    def __init__(self, path: Path) -> None:
        """Loads the SavedModel in the folder `path`.

        Raises:
            OSError, tf.errors.OpError, ValueError, RuntimeError: It can't be loaded.
        """
        self.path = path
        self._callables: dict[str, Any] = {}
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        try:
            with graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(path))
        except BaseException:
            self._session.close()
            raise
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)
        """Name -> SignatureDef."""

    def signature(self, name: str) -> Any:
        """The SignatureDef called `name`, the default one for "".

        Raises:
            ServingError: FAILED_PRECONDITION if there is none.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    def predict(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Outputs by name; only those in `output_filter`, if it is given.

        Raises:
            ServingError: INVALID_ARGUMENT if inputs or filter don't fit the signature, FAILED_PRECONDITION if there is
                no such signature, and what TensorFlow reports when it computes.
        """
        signature = self.signature(signature_name)
        _check_inputs(signature, inputs)
        _check_outputs(signature, output_filter)
        feeds = (inputs[name] for name in sorted(signature.inputs))
        try:
            values = self._callable(signature_name or DEFAULT_SIGNATURE)(*feeds)
        except tf.errors.OpError as error:
            code = _STATUS_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
            raise ServingError(code, error.message) from error
        # A string without dimensions comes as bytes, which numpy would take for text of fixed width.
        arrays = (np.asarray(value, object if isinstance(value, bytes) else None) for value in values)
        outputs = dict(zip(sorted(signature.outputs), arrays, strict=True))
        return {name: outputs[name] for name in output_filter} if output_filter else outputs

    def warm_up(self) -> int:
        """Answers the requests that the export brings with it, so that the first real one isn't slow; returns how many.

        Raises:
            ServingError: A request can't be answered, isn't a PredictLog, or there are more than 1000.
            tf.errors.OpError: The file is damaged.
        """
        path = self.path / WARM_UP_FILE
        if not path.exists():
            return 0
        count = 0
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            count += 1
            if count > MAX_WARM_UP_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_WARM_UP_RECORDS}) at {path}"
                )
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise ServingError(
                    grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {log.WhichOneof('log_type')}"
                )
            request = log.predict_log.request
            inputs = {name: decode_tensor(name, proto) for name, proto in request.inputs.items()}
            self.predict(request.model_spec.signature_name, inputs, request.output_filter)
        return count

    def close(self) -> None:
        """Frees variables and graph. No request may be under way."""
        self._callables.clear()
        self._session.close()

    def _callable(self, signature_name: str) -> Any:
        """One for each signature, not for each output filter: callers choose those, and there are many."""
        # Two threads may make the same one at the same time; either is good.
        if signature_name not in self._callables:
            signature = self.signatures[signature_name]
            self._callables[signature_name] = self._session.make_callable(
                [signature.outputs[name].name for name in sorted(signature.outputs)],
                feed_list=[signature.inputs[name].name for name in sorted(signature.inputs)],
            )
        return self._callables[signature_name]


def _check_inputs(signature: Any, inputs: Mapping[str, np.ndarray]) -> None:
    sent, expected = set(inputs), set(signature.inputs)
    if sent != expected:
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_names(sent)}) != "
            f"len({_names(expected)}). Sent extra: {_names(sent - expected)}. "
            f"Missing but required: {_names(expected - sent)}."
        )
    for name, array in inputs.items():
        info = signature.inputs[name]
        dtype = tf.dtypes.as_dtype(info.dtype)
        # The session would cast silently, floats to ids included.
        if array.dtype != dtype.as_numpy_dtype:
            raise invalid_argument(f"input {name!r} has type {array.dtype}, the signature expects {dtype.name}")
        if not tf.TensorShape(info.tensor_shape).is_compatible_with(array.shape):
            raise invalid_argument(
                f"input {name!r} has shape {array.shape}, the signature expects {tf.TensorShape(info.tensor_shape)}"
            )


def _check_outputs(signature: Any, outputs: Sequence[str]) -> None:
    for index, name in enumerate(outputs):
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_names(signature.outputs)}."
            )
        if name in outputs[:index]:
            raise invalid_argument(f"duplicate output tensor alias: {name}")


def _names(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"
