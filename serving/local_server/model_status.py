"""What GetModelStatus answers, over gRPC and REST alike."""

from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from serving.local_server.serving_error import invalid_argument
from serving.local_server.serving_map import ServingMap


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
