"""RestApi: what the REST interface answers, apart from the transport."""

import dataclasses
import json
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.local_server.json_codec import inputs_from_json, outputs_to_json, parse_body
from serving.local_server.model_status import model_status
from serving.local_server.predictor import Predictor
from serving.local_server.request_metrics import RequestMetrics
from serving.local_server.request_queue import RequestQueue
from serving.local_server.servable import DEFAULT_SIGNATURE
from serving.local_server.serving_error import ServingError, invalid_argument
from serving.local_server.serving_map import ServingMap

METRICS_PATH = "/monitoring/prometheus/metrics"

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.I | re.A)
_GET = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}(?P<metadata>/metadata)?", re.I | re.A)

_HTTP_STATUSES = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


@dataclasses.dataclass(frozen=True)
class RestResponse:
    """HTTP status, body, and the body's type."""

    status: int
    body: bytes
    content_type: str = "application/json"


class RestApi:
    """Routes a request and answers it as TensorFlow Serving does."""

    def __init__(
        self,
        serving: ServingMap,
        predictor: Predictor,
        metrics: RequestMetrics,
        requests: RequestQueue,
        *,
        timeout_s: float,
    ) -> None:
        """Args:
        requests: Computes what POST asks for.
        timeout_s: Seconds within which that succeeds or fails.
        """
        self._serving = serving
        self._predictor = predictor
        self._metrics = metrics
        self._requests = requests
        self._timeout_s = timeout_s

    def answer(self, method: str, path: str, body: bytes) -> RestResponse:
        """The answer to a request; every error is JSON: {"error": ...}."""
        path = path.partition("?")[0]
        if path == METRICS_PATH and method == "GET":
            return RestResponse(200, self._metrics.page().encode(), "text/plain; charset=utf-8")
        if not path.lower().startswith("/v1/"):
            return error_response(404, f"Not found: {path}; the models are at /v1/models/NAME")
        try:
            return RestResponse(200, self._dispatch(method, path, body))
        except ServingError as error:
            return error_response(_HTTP_STATUSES.get(error.code, 500), error.message)

    def _dispatch(self, method: str, path: str, body: bytes) -> bytes:
        route = {"POST": _POST, "GET": _GET}.get(method)
        match = route.fullmatch(path) if route else None
        if match is None:
            raise invalid_argument(f"Malformed request: {method} {path}")
        spec = _model_spec(match)
        if method == "POST":
            api = match["method"].capitalize()
            return self._observed(spec.name, api, lambda: self._queued(spec, match["method"].lower(), body))
        if match["metadata"]:
            return self._observed(spec.name, "GetModelMetadata", lambda: self._metadata(spec))
        return self._status(spec)

    def _observed(self, name: str, api: str, answer: Callable[[], bytes]) -> bytes:
        with self._metrics.observe(name, api, "REST"):
            return answer()

    def _queued(self, spec: Any, method: str, body: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        future = self._requests.submit(lambda: self._call(spec, method, body, deadline), deadline)
        try:
            return future.result(self._timeout_s)
        except TimeoutError as error:
            future.cancel()
            raise ServingError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"the request was not answered within {self._timeout_s:g} s"
            ) from error

    def _call(self, spec: Any, method: str, body: bytes, deadline: float) -> bytes:
        if method != "predict":
            raise ServingError(
                grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented by the local server; use :predict"
            )
        document = parse_body(body)
        signature_name = document.get("signature_name") or DEFAULT_SIGNATURE
        with self._serving.servable(spec) as (_, servable):
            if signature_name not in servable.signatures:
                raise invalid_argument(f'Serving signature name: "{signature_name}" not found in signature def')
            inputs = inputs_from_json(document, servable.signature(signature_name).inputs)
            outputs = self._predictor.outputs(servable, signature_name, inputs, deadline=deadline)
        return outputs_to_json(outputs, by_row="instances" in document)

    def _metadata(self, spec: Any) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = self._predictor.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        document = {
            "model_spec": _to_dict(response.model_spec),
            "metadata": {"signature_def": _to_dict(signatures)},
        }
        return json.dumps(document, indent=1).encode()

    def _status(self, spec: Any) -> bytes:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return json.dumps(_to_dict(model_status(self._serving, request)), indent=1).encode()


def error_response(status: int, message: str) -> RestResponse:
    """An error the way TensorFlow Serving words it."""
    return RestResponse(status, json.dumps({"error": message}).encode())


def _model_spec(match: re.Match[str]) -> Any:
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["name"]))
    if match["version"]:
        # Of thousands of digits Python makes no number.
        if len(match["version"]) > 19 or int(match["version"]) >= 2**63:
            raise invalid_argument(f"Failed to convert version: {match['version'][:40]} to numeric.")
        spec.version.value = int(match["version"])
    if match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])
    return spec


def _to_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
