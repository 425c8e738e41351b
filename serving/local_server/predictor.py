"""Predictor: answers PredictRequest and GetModelMetadataRequest, for gRPC and REST alike."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from serving.local_server.batcher import Batcher
from serving.local_server.servable import DEFAULT_SIGNATURE, Servable
from serving.local_server.serving_error import ServingError, invalid_argument
from serving.local_server.serving_map import ServingMap
from serving.local_server.tensor_codec import encode_tensor

_SIGNATURE_DEF = "signature_def"


class Predictor:
    """Computes answers with the version that a request means."""

    def __init__(self, serving: ServingMap, *, batcher: Batcher | None = None, tensor_content: bool = False) -> None:
        """Args:
        batcher: Computes requests together; None computes each by itself.
        tensor_content: Whether answers hold `tensor_content` instead of repeated values.
        """
        self._serving = serving
        self._batcher = batcher
        self._tensor_content = tensor_content

    def predict(self, request: Any, deadline: float | None = None) -> Any:
        """The PredictResponse to a PredictRequest; its model_spec tells the version and signature that were used.

        Args:
            deadline: As `outputs`.

        Raises:
            ServingError: The request can't be answered.
        """
        response = predict_pb2.PredictResponse()
        with self._serving.servable(request.model_spec) as (version, servable):
            signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            inputs = servable.decode(signature_name, request.inputs)
            outputs = self.outputs(servable, signature_name, inputs, request.output_filter, deadline)
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = signature_name
        response.model_spec.version.value = version
        for name, array in outputs.items():
            encode_tensor(array, response.outputs[name], as_content=self._tensor_content)
        return response

    def outputs(
        self,
        servable: Servable,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
        deadline: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Outputs of a signature by name, computed together with other requests' where that is wanted and possible.

        Args:
            deadline: Until when a batch is waited for, on `time.monotonic`'s clock; None for no limit.

        Raises:
            ServingError: As `Servable.predict`, what `Batcher.submit` raises, and DEADLINE_EXCEEDED.
        """
        servable.check(signature_name, inputs, output_filter)
        rows = {len(array) if array.ndim else None for array in inputs.values()}
        if self._batcher is None or len(rows) != 1 or not next(iter(rows)):
            outputs = servable.compute(signature_name, inputs)
        else:
            shapes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(inputs.items()))
            future = self._batcher.submit(
                (id(servable), signature_name, shapes),
                lambda merged: servable.compute(signature_name, merged),
                inputs,
                next(iter(rows)) or 0,
            )
            outputs = _result(future, deadline)
        return {name: outputs[name] for name in output_filter} if output_filter else outputs

    def metadata(self, request: Any) -> Any:
        """The GetModelMetadataResponse to a GetModelMetadataRequest: the signatures, the only field there is.

        Raises:
            ServingError: The request can't be answered.
        """
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {field} is not supported")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._serving.servable(request.model_spec) as (version, servable):
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        return response


def _result(future: Future, deadline: float | None) -> dict[str, np.ndarray]:
    try:
        return future.result(None if deadline is None else max(deadline - time.monotonic(), 0.0))
    except TimeoutError as error:
        future.cancel()
        raise ServingError(
            grpc.StatusCode.DEADLINE_EXCEEDED, "the request's deadline passed while it waited for its batch"
        ) from error
