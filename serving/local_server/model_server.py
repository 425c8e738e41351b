"""ModelServer: the local server, assembled."""

import threading
from collections.abc import Sequence
from pathlib import Path

from tensorflow.core.protobuf import config_pb2

from serving.local_server.batcher import Batcher
from serving.local_server.batching_parameters import BatchingParameters
from serving.local_server.config_file_follower import ConfigFileFollower
from serving.local_server.graph_pool import GraphPool
from serving.local_server.grpc_api import GrpcApi
from serving.local_server.grpc_server import GrpcServer
from serving.local_server.model_config import ModelConfig
from serving.local_server.predictor import Predictor
from serving.local_server.request_metrics import RequestMetrics
from serving.local_server.request_queue import RequestQueue
from serving.local_server.rest_api import RestApi
from serving.local_server.rest_server import RestServer
from serving.local_server.servable import Servable
from serving.local_server.server_options import ServerOptions
from serving.local_server.tls_config import TlsConfig
from serving.local_server.version_manager import VersionManager

_CONTROL_THREADS = 4
_CONTROL_PLACES = 256
_RELOAD_PLACES = 16


class ModelServer:
    """Speaks TensorFlow Serving's gRPC and REST interfaces for models on the local disk."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        options: ServerOptions | None = None,
        *,
        config_file: Path | None = None,
    ) -> None:
        """Binds the ports at once, answers from `start` on.

        Args:
            models: What to serve.
            options: How; the defaults are for a client on this machine.
            config_file: Where `models` were read from, to be read again every `options.config_poll_s`.

        Raises:
            OSError: An address can't be bound, or a file can't be read.
            ValueError: A file of `options` holds something else than it should.
        """
        self._models = models
        self._stopped = False
        self._options = options = options or ServerOptions()
        tls = None if options.ssl_config is None else TlsConfig.from_file(options.ssl_config)
        self._batcher = _batcher(options)
        self.graphs = GraphPool(
            config_pb2.ConfigProto(
                intra_op_parallelism_threads=options.intra_op_threads,
                inter_op_parallelism_threads=options.inter_op_threads,
            )
        )
        """The graphs of the versions that are loaded."""
        self.manager = VersionManager(
            lambda path: Servable(path, self.graphs),
            poll_s=options.poll_s,
            labels_before_versions=options.labels_before_versions,
            prepare=Servable.prepare_next if options.prepare_next else None,
        )
        """What is loaded."""
        self._metrics = RequestMetrics(self.manager.serving.models)
        self._predictor = Predictor(self.manager.serving, batcher=self._batcher, tensor_content=options.tensor_content)
        # With batching a thread waits for its batch and does little else, so each place in the queue gets one.
        threads, places = options.workers, options.waiting
        if self._batcher is not None:
            threads, places = threads + places, 0
        self._requests = RequestQueue(threads, places)
        self._control = RequestQueue(_CONTROL_THREADS, _CONTROL_PLACES, "control", refuses_early=False)
        # A reload takes as long as a model takes to load; one at a time, since they would wait for each other anyway.
        self._reloads = RequestQueue(1, _RELOAD_PLACES, "reload", refuses_early=False)
        self._follower = None
        if config_file is not None and options.config_poll_s > 0:
            self._follower = ConfigFileFollower(config_file, options.config_poll_s, self.manager.reload)
        self._grpc = GrpcServer(options, tls, self._grpc_api)
        self.address = self._grpc.address
        """host:port of the gRPC interface."""
        self._rest: RestServer | None = None
        self.rest_address: str | None = None
        """host:port of the REST interface, if there is one."""
        if options.rest_port is not None:
            host = f"[{options.host}]" if ":" in options.host else options.host
            api = RestApi(
                self.manager.serving, self._predictor, self._metrics, self._requests, timeout_s=options.request_s
            )
            try:
                self._rest = RestServer(options, api)
            except OSError as error:
                self._grpc.stop(0.0)
                raise OSError(f"can't listen on {host}:{options.rest_port} for REST: {error}") from error
            self.rest_address = f"{host}:{self._rest.server_port}"
            self._rest_thread = threading.Thread(target=self._rest.serve_forever, name="rest", daemon=True)

    def start(self) -> None:
        """Loads the versions that are there, then begins to answer.

        Raises:
            ServingError: The configuration of the models is wrong.
        """
        self.manager.start(self._models)
        self._grpc.start()
        if self._rest is not None:
            self._rest_thread.start()
        if self._follower is not None:
            self._follower.start()

    def stop(self, grace_s: float = 5.0) -> None:
        """Takes no new requests, gives those under way `grace_s` seconds, and frees the models. May be called again."""
        if self._stopped:
            return
        self._stopped = True
        if self._rest is not None:
            if self._rest_thread.is_alive():
                self._rest.shutdown()
            self._rest.server_close()
        self._grpc.stop(grace_s)
        if self._follower is not None:
            self._follower.stop()
        self._requests.stop()
        self._control.stop()
        self._reloads.stop()
        if self._batcher is not None:
            self._batcher.stop()
        self.manager.stop()

    def _grpc_api(self) -> GrpcApi:
        return GrpcApi(
            self.manager,
            self._predictor,
            self._metrics,
            self._requests,
            self._control,
            self._reloads,
            receive_s=self._options.request_s,
        )


def _batcher(options: ServerOptions) -> Batcher | None:
    if not options.batching:
        return None
    if options.batching_parameters is None:
        return Batcher(BatchingParameters())
    return Batcher(BatchingParameters.from_file(options.batching_parameters))
