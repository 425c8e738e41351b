"""GrpcApi: the methods of TensorFlow Serving's gRPC interface, and of gRPC's health service."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_management_pb2, predict_pb2

from serving.local_server.model_config import ModelConfig
from serving.local_server.model_status import model_status
from serving.local_server.predictor import Predictor
from serving.local_server.request_metrics import RequestMetrics
from serving.local_server.request_queue import RequestQueue
from serving.local_server.serving_error import ServingError, details, invalid_argument
from serving.local_server.version_manager import VersionManager
from serving.protos import server_config_pb2

HEALTH_SERVICES = ("", "ModelService", "PredictionService")
"""Names that TensorFlow Serving's health service knows; "" is the whole server."""

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"
_HEALTH = "/grpc.health.v1.Health/"
_NOT_DONE = ("Classify", "Regress", "MultiInference")

_Status = server_config_pb2.HealthCheckResponse

_Answer = Callable[[bytes, float | None], bytes]
"""(message, deadline on `time.monotonic`'s clock) -> the answer's message."""

_log = logging.getLogger(__name__)


class GrpcApi(grpc.GenericRpcHandler):
    """Routes a call and answers it as TensorFlow Serving does.

    Messages come and go as bytes and are parsed in the threads that compute: a large message holds nobody else up.
    While there is no place for a call, it is refused before its message is read. A message on its way has no place yet,
    so that slow clients take none from others; if the places are gone when it is there, it is refused unparsed. What
    says how the server is doing has threads of its own, so that it answers however many requests wait.
    """

    def __init__(
        self,
        manager: VersionManager,
        predictor: Predictor,
        metrics: RequestMetrics,
        requests: RequestQueue,
        control: RequestQueue,
        reloads: RequestQueue,
        *,
        receive_s: float,
    ) -> None:
        """Args:
        requests: Computes answers.
        control: Answers about models.
        reloads: Changes which models there are.
        receive_s: Seconds that a message may take to arrive.
        """
        self._manager = manager
        self._predictor = predictor
        self._metrics = metrics
        self._receive_s = receive_s
        self._stopping = asyncio.Event()
        self._handlers = {
            _PREDICTION + "Predict": self._handler(requests, self._predict),
            _PREDICTION + "GetModelMetadata": self._handler(control, self._metadata),
            _MODEL + "GetModelStatus": self._handler(control, self._status),
            _MODEL + "HandleReloadConfigRequest": self._handler(reloads, self._reload),
            _HEALTH + "Check": grpc.unary_unary_rpc_method_handler(self._check),
            _HEALTH + "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        for method in _NOT_DONE:
            self._handlers[_PREDICTION + method] = grpc.unary_unary_rpc_method_handler(_not_done)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)

    def stop(self) -> None:
        """Says NOT_SERVING to whoever watches the server's health. Called in the event loop."""
        self._stopping.set()

    def _handler(self, requests: RequestQueue, answer: _Answer) -> grpc.RpcMethodHandler:
        # On the wire a method that takes one message is one that takes a stream of one. Told that it is a stream, gRPC
        # hands over the call before its message is there, and a client that never sends it can be sent away.
        return grpc.stream_unary_rpc_method_handler(functools.partial(self._answer, requests, answer))

    async def _answer(
        self, requests: RequestQueue, answer: _Answer, _: Any, context: grpc.aio.ServicerContext
    ) -> bytes:
        try:
            left_s = context.time_remaining()
            deadline = None if left_s is None else time.monotonic() + left_s
            requests.check(deadline)
            async with asyncio.timeout(self._receive_s):
                message = await context.read()
            if not isinstance(message, bytes):
                raise ServingError(grpc.StatusCode.INTERNAL, "the call ended before its message")
            return await asyncio.wrap_future(requests.submit(functools.partial(answer, message, deadline), deadline))
        except TimeoutError:
            reason = f"the request did not arrive within {self._receive_s:g} s"
            return await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, reason)
        except ServingError as error:
            if error.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED):
                self._metrics.count("", error.code)  # neither was looked at: the model isn't known
            return await context.abort(error.code, details(error))
        except Exception:  # the call must end with a status; the reason is in the log
            _log.exception("A gRPC call failed")
            return await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has the reason")

    def _predict(self, message: bytes, deadline: float | None) -> bytes:
        request = _parsed(predict_pb2.PredictRequest, message)
        with self._metrics.observe(request.model_spec.name, "Predict", "GRPC"):
            return self._predictor.predict(request, deadline).SerializeToString()

    def _metadata(self, message: bytes, _: float | None) -> bytes:
        request = _parsed(get_model_metadata_pb2.GetModelMetadataRequest, message)
        with self._metrics.observe(request.model_spec.name, "GetModelMetadata", "GRPC"):
            return self._predictor.metadata(request).SerializeToString()

    def _status(self, message: bytes, _: float | None) -> bytes:
        request = _parsed(get_model_status_pb2.GetModelStatusRequest, message)
        return model_status(self._manager.serving, request).SerializeToString()

    def _reload(self, message: bytes, _: float | None) -> bytes:
        request = _parsed(model_management_pb2.ReloadConfigRequest, message)
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        self._manager.reload([ModelConfig.from_proto(config) for config in request.config.model_config_list.config])
        return model_management_pb2.ReloadConfigResponse().SerializeToString()

    async def _check(self, message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        status = self._health(await _service_name(message, context))
        if status == _Status.SERVICE_UNKNOWN:
            return await context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
        return _Status(status=status).SerializeToString()

    async def _watch(self, message: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        service = await _service_name(message, context)
        yield _Status(status=self._health(service)).SerializeToString()
        await self._stopping.wait()
        yield _Status(status=self._health(service)).SerializeToString()

    def _health(self, service: str) -> Any:
        if service not in HEALTH_SERVICES:
            return _Status.SERVICE_UNKNOWN
        return _Status.NOT_SERVING if self._stopping.is_set() else _Status.SERVING


def _parsed(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError as error:  # the code that gRPC's own libraries answer with
        raise ServingError(grpc.StatusCode.INTERNAL, f"the request is no {kind.__name__}: {error}") from error


async def _service_name(message: bytes, context: grpc.aio.ServicerContext) -> str:
    try:
        return server_config_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError as error:
        return await context.abort(grpc.StatusCode.INTERNAL, f"the request is no HealthCheckRequest: {error}")


async def _not_done(_: bytes, context: grpc.aio.ServicerContext) -> Message:
    return await context.abort(
        grpc.StatusCode.UNIMPLEMENTED, "not implemented by the local server; use Predict, or TensorFlow Serving"
    )
