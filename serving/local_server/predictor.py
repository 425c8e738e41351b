"""Predictor: answers PredictRequest and GetModelMetadataRequest, for gRPC and REST alike."""

from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from serving.local_server.servable import DEFAULT_SIGNATURE
from serving.local_server.serving_error import invalid_argument
from serving.local_server.serving_map import ServingMap
from serving.local_server.tensor_codec import decode_tensor, encode_tensor

_SIGNATURE_DEF = "signature_def"


class Predictor:
    """Computes answers with the version that a request means."""

    def __init__(self, serving: ServingMap) -> None:
        self._serving = serving

    def predict(self, request: Any) -> Any:
        """The PredictResponse to a PredictRequest; its model_spec tells the version and signature that were used.

        Raises:
            ServingError: The request can't be answered.
        """
        response = predict_pb2.PredictResponse()
        with self._serving.servable(request.model_spec) as (version, servable):
            signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            inputs = {name: decode_tensor(name, proto) for name, proto in request.inputs.items()}
            outputs = servable.predict(signature_name, inputs, request.output_filter)
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = signature_name
        response.model_spec.version.value = version
        for name, array in outputs.items():
            encode_tensor(array, response.outputs[name])
        return response

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
