"""ModelService over gRPC."""

from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, model_service_pb2_grpc

from serving.local_server.model_config import ModelConfig
from serving.local_server.serving_error import ServingError, abort, invalid_argument
from serving.local_server.serving_map import ServingMap
from serving.local_server.version_manager import VersionManager


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, manager: VersionManager) -> None:
        self._manager = manager

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the service's own name
        try:
            return model_status(self._manager.serving, request)
        except ServingError as error:
            return abort(context, error)

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        try:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid_argument(
                    "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                    "Only ModelConfigList is currently supported"
                )
            self._manager.reload([ModelConfig.from_proto(config) for config in request.config.model_config_list.config])
        except ServingError as error:
            return abort(context, error)
        return model_management_pb2.ReloadConfigResponse()


def model_status(serving: ServingMap, request: Any) -> Any:
    """The GetModelStatusResponse to a GetModelStatusRequest, newest version first.

    Raises:
        ServingError: The request names no model, or one that isn't known.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    statuses = serving.statuses(spec.name, spec.version.value if spec.HasField("version") else None)
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, status in sorted(statuses.items(), reverse=True):
        entry = response.model_version_status.add(version=version, state=status.state)
        entry.status.error_code = grpc.StatusCode.UNKNOWN.value[0] if status.error else 0
        entry.status.error_message = status.error
    return response
