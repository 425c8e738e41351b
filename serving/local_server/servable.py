"""Servable: one loaded version of a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.local_server.graph_pool import GraphPool
from serving.local_server.graph_session import GraphSession
from serving.local_server.serving_error import ServingError, invalid_argument
from serving.local_server.tensor_codec import decode_tensors

DEFAULT_SIGNATURE = "serving_default"
WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_WARM_UP_RECORDS = 1000

_Expected = dict[str, tuple[np.dtype, tf.TensorShape]]
"""Type and shape of each input of a signature."""

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Servable:
    """A SavedModel in a session of its own, loaded as TensorFlow Serving loads it.

    So exports are refused that only `tf.saved_model.load` can read. The session's callables also disturb requests less
    than concrete functions do while another version loads. Safe to use from many threads.
    """

    def __init__(self, path: Path, graphs: GraphPool | None = None) -> None:
        """Loads the SavedModel in the folder `path`.

        Args:
            graphs: Where versions with the same graph find it; by default there are no others.

        Raises:
            OSError, tf.errors.OpError, ValueError, RuntimeError: It can't be loaded.
        """
        self.path = path
        self._graphs = GraphPool() if graphs is None else graphs
        self._key, self._graph = self._graphs.acquire(path)
        try:
            self._session = self._graph.open(path)
        except BaseException:
            self._graphs.release(self._key)
            raise
        self.signatures: dict[str, Any] = self._graph.signatures
        """Name -> SignatureDef."""
        self._expected = {name: _expected(signature) for name, signature in self.signatures.items()}

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
        self.check(signature_name, inputs, output_filter)
        outputs = self.compute(signature_name, inputs)
        return {name: outputs[name] for name in output_filter} if output_filter else outputs

    def decode(self, signature_name: str, protos: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Inputs by name from TensorProtos by name. What a signature doesn't have isn't decoded.

        Raises:
            ServingError: INVALID_ARGUMENT if the names aren't the signature's or a tensor can't be decoded,
                FAILED_PRECONDITION if there is no such signature.
        """
        self.signature(signature_name)
        _check_names(self._expected[signature_name or DEFAULT_SIGNATURE], protos)
        return decode_tensors(protos)

    def check(self, signature_name: str, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()) -> None:
        """Raises what `predict` does before it computes."""
        signature = self.signature(signature_name)
        _check_inputs(self._expected[signature_name or DEFAULT_SIGNATURE], inputs)
        _check_outputs(signature, output_filter)

    def compute(self, signature_name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name, of inputs that `check` lets pass.

        Raises:
            ServingError: What TensorFlow reports.
        """
        return self._compute(self._session, signature_name, inputs)

    def warm_up(self) -> int:
        """Answers the requests that the export brings with it, so that the first real one isn't slow; returns how many.

        Raises:
            ServingError: A request can't be answered, isn't a PredictLog, or there are more than 1000.
            tf.errors.OpError: The file is damaged.
        """
        return self._warm_up(self._session)

    def prepare_next(self) -> bool:
        """Prepares a session for the next version with the same graph, so that it loads fast; whether there was a need.

        Raises:
            As the constructor and `warm_up`.
        """
        if not self._graph.reusable or self._graph.has_spare:
            return False
        session = self._graph.open(self.path)
        try:
            self._warm_up(session)
        except BaseException:
            session.close()
            raise
        self._graph.give_back(session)
        return True

    def close(self) -> None:
        """Frees the version. No request may be under way."""
        self._graph.give_back(self._session)
        self._graphs.release(self._key)

    def _compute(
        self, session: GraphSession, signature_name: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        signature = self.signature(signature_name)
        feeds = [inputs[name] for name in sorted(signature.inputs)]
        try:
            values = session.run(signature_name or DEFAULT_SIGNATURE, feeds)
        except tf.errors.OpError as error:
            code = _STATUS_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
            raise ServingError(code, error.message) from error
        # A string without dimensions comes as bytes, which numpy would take for text of fixed width.
        arrays = (np.asarray(value, object if isinstance(value, bytes) else None) for value in values)
        return dict(zip(sorted(signature.outputs), arrays, strict=True))

    def _warm_up(self, session: GraphSession) -> int:
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
            inputs = self.decode(request.model_spec.signature_name, request.inputs)
            self.check(request.model_spec.signature_name, inputs, request.output_filter)
            self._compute(session, request.model_spec.signature_name, inputs)
        return count


def _expected(signature: Any) -> _Expected:
    return {
        name: (np.dtype(tf.dtypes.as_dtype(info.dtype).as_numpy_dtype), tf.TensorShape(info.tensor_shape))
        for name, info in signature.inputs.items()
    }


def _check_names(expected: _Expected, inputs: Mapping[str, Any]) -> None:
    if inputs.keys() != expected.keys():
        sent, wanted = set(inputs), set(expected)
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_names(sent)}) != "
            f"len({_names(wanted)}). Sent extra: {_names(sent - wanted)}. "
            f"Missing but required: {_names(wanted - sent)}."
        )


def _check_inputs(expected: _Expected, inputs: Mapping[str, np.ndarray]) -> None:
    _check_names(expected, inputs)
    for name, array in inputs.items():
        dtype, shape = expected[name]
        # The session would cast silently, floats to ids included.
        if array.dtype != dtype:
            wanted_name = "string" if dtype.hasobject else dtype.name
            raise invalid_argument(f"input {name!r} has type {array.dtype}, the signature expects {wanted_name}")
        if not shape.is_compatible_with(array.shape):
            raise invalid_argument(f"input {name!r} has shape {array.shape}, the signature expects {shape}")


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
