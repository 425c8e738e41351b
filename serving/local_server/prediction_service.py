"""PredictionService over gRPC."""

from typing import Any

import grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.local_server.predictor import Predictor
from serving.local_server.request_metrics import RequestMetrics
from serving.local_server.serving_error import ServingError, abort


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the other methods answer UNIMPLEMENTED."""

    def __init__(self, predictor: Predictor, metrics: RequestMetrics) -> None:
        self._predictor = predictor
        self._metrics = metrics

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the service's own name
        try:
            with self._metrics.observe(request.model_spec.name, "Predict", "GRPC"):
                return self._predictor.predict(request)
        except ServingError as error:
            return abort(context, error)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        try:
            with self._metrics.observe(request.model_spec.name, "GetModelMetadata", "GRPC"):
                return self._predictor.metadata(request)
        except ServingError as error:
            return abort(context, error)
