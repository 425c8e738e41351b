"""ModelServer: the local server, assembled."""

import threading
from collections.abc import Sequence
from concurrent import futures

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.local_server.model_config import ModelConfig
from serving.local_server.model_service import ModelService
from serving.local_server.prediction_service import PredictionService
from serving.local_server.predictor import Predictor
from serving.local_server.request_metrics import RequestMetrics
from serving.local_server.rest_api import RestApi
from serving.local_server.rest_server import RestServer
from serving.local_server.version_manager import VersionManager

_MAX_MESSAGE_BYTES = 64 * 2**20
_THREADS = 16


class ModelServer:
    """Speaks TensorFlow Serving's gRPC and REST interfaces for models on the local disk."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        *,
        host: str = "127.0.0.1",
        port: int = 8500,
        rest_port: int = 8501,
        poll_s: float = 1.0,
    ) -> None:
        """Binds the ports at once, answers from `start` on.

        Args:
            models: What to serve.
            host: Address to listen on. There is no access control: whoever reaches it can load any model.
            port: Of the gRPC interface; 0 takes a free one.
            rest_port: Of the REST interface; 0 takes a free one.
            poll_s: Seconds between two looks for new versions.

        Raises:
            OSError: An address can't be bound.
        """
        self._models = models
        self._manager = VersionManager(poll_s=poll_s)
        metrics = RequestMetrics()
        predictor = Predictor(self._manager.serving)
        self._grpc = grpc.server(
            futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),  # else a second server on the port takes half of the requests
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(predictor, metrics), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self._manager), self._grpc)
        bracketed = f"[{host}]" if ":" in host else host
        try:
            bound = self._grpc.add_insecure_port(f"{bracketed}:{port}")
        except RuntimeError as error:
            raise OSError(
                f"can't listen on {bracketed}:{port} for gRPC; is another server using it? ({error})"
            ) from error
        self.address = f"{bracketed}:{bound}"
        """host:port of the gRPC interface."""
        try:
            self._rest = RestServer(host, rest_port, RestApi(self._manager.serving, predictor, metrics))
        except OSError as error:
            self._grpc.stop(None)
            raise OSError(f"can't listen on {bracketed}:{rest_port} for REST: {error}") from error
        self.rest_address = f"{bracketed}:{self._rest.server_port}"
        """host:port of the REST interface."""
        self._rest_thread = threading.Thread(target=self._rest.serve_forever, name="rest", daemon=True)

    def start(self) -> None:
        """Loads the versions that are there, then begins to answer.

        Raises:
            ServingError: The configuration of the models is wrong.
        """
        self._manager.start(self._models)
        self._grpc.start()
        self._rest_thread.start()

    def stop(self, grace_s: float = 5.0) -> None:
        """Takes no new requests, gives those under way `grace_s` seconds, and frees the models."""
        ended = self._grpc.stop(grace_s)
        if self._rest_thread.is_alive():
            self._rest.shutdown()
        self._rest.server_close()
        ended.wait()
        self._manager.stop()
