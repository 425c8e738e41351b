"""A model server without TensorFlow: its versions forecast by a formula, and are there, or not, as a test says."""

from concurrent import futures

import grpc
import numpy as np

from serving.protos import model_metadata_pb2 as metadata
from serving.protos import serving_api_pb2 as api
from serving.tensors import from_tensor_proto, to_tensor_proto


class FakeModelServer:
    """Speaks Predict, GetModelMetadata, GetModelStatus and HandleReloadConfigRequest for one model.

    Attributes:
        sizes: Version -> F, width of its foresight vectors; 0 for one without the signature `forecast`.
        states: Version -> state; "AVAILABLE" where nothing is said.
        configs: The last configuration that it was told.
        calls: The methods called, in order; Predict with the version and number of rooms.
        before: Called with (method, context) first; may abort.
        inputs: Names of the inputs of `forecast`.
        change: What becomes of vectors before they are sent.
    """

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.states: dict[int, str] = {}
        self.configs: list[api.ModelConfig] = []
        self.calls: list[object] = []
        self.before = lambda method, context: None
        self.inputs = ("statistic_sequence", "statistic_mask")
        self.change = lambda vectors: vectors
        services = {
            "PredictionService": {
                "Predict": (self._predict, api.PredictRequest),
                "GetModelMetadata": (self._metadata, metadata.GetModelMetadataRequest),
            },
            "ModelService": {
                "GetModelStatus": (self._status, api.GetModelStatusRequest),
                "HandleReloadConfigRequest": (self._reload, api.ReloadConfigRequest),
            },
        }
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        for service, methods in services.items():
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(
                    self._observed(name, answer), request.FromString, lambda response: response.SerializeToString()
                )
                for name, (answer, request) in methods.items()
            }
            handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", handlers)
            self.server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    @staticmethod
    def vectors(version, size, sequences):
        """(R, F): the version, and what it makes of each room's sequence (R, T, N)."""
        sums = sequences.reshape(len(sequences), -1).sum(axis=1)
        return np.stack([np.full(len(sums), version), *[sums * version + column for column in range(size - 1)]], axis=1)

    def _observed(self, method, answer):
        def observed(request, context):
            self.before(method, context)
            if method != "Predict":
                self.calls.append(method)
            return answer(request, context)

        return observed

    def _predict(self, request, context):
        spec = request.model_spec
        self._check(spec.version.value, context)
        assert spec.signature_name == "forecast" and set(request.inputs) == set(self.inputs)
        sequences = from_tensor_proto(request.inputs["statistic_sequence"])
        self.calls.append((spec.version.value, len(sequences)))
        response = api.PredictResponse()
        response.model_spec.version.value = spec.version.value
        vectors = self.change(self.vectors(spec.version.value, self.sizes[spec.version.value], sequences))
        response.outputs["foresight"].CopyFrom(to_tensor_proto(vectors.astype(np.float32)))
        return response

    def _metadata(self, request, context):
        version = request.model_spec.version.value
        self._check(version, context)
        signatures = metadata.SignatureDefMap()
        signatures.signature_def["rank"].method_name = "tensorflow/serving/predict"
        if self.sizes[version]:
            signature = signatures.signature_def["forecast"]
            for name in self.inputs:
                signature.inputs[name].dtype = api.DT_FLOAT
            for size in (-1, self.sizes[version]):
                signature.outputs["foresight"].tensor_shape.dim.add(size=size)
        response = metadata.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def _status(self, request, context):
        if not self.sizes:
            context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        response = api.GetModelStatusResponse()
        for version in self.sizes:
            state = api.ModelVersionStatus.State.Value(self._state(version))
            response.model_version_status.add(version=version, state=state)
        return response

    def _reload(self, request, context):
        configs = list(request.config.model_config_list.config)
        for config in configs:
            gone = [version for version in config.version_labels.values() if self._state(version) != "AVAILABLE"]
            if gone:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"label on version {gone[0]}, not available")
        self.configs = configs
        return api.ReloadConfigResponse()

    def _state(self, version):
        return self.states.get(version, "AVAILABLE") if version in self.sizes else "unknown"

    def _check(self, version, context):
        if self._state(version) != "AVAILABLE":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific(m, {version})")
