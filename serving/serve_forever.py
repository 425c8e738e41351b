"""The process that `foresight serve` is."""

import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from serving.local_server.server_options import ServerOptions

READY_KEY = "grpc_address"
"""Key of the line of JSON on stdout that says that the server answers."""

_LOOK_S = 0.2


def serve_forever(models: Mapping[str, Path], *, config_file: Path | None, options: ServerOptions) -> None:
    """Serves until SIGTERM or SIGINT; prints one line of JSON with the addresses as soon as it answers.

    Args:
        models: Name -> folder with the versions.
        config_file: A ModelServerConfig as text, as TensorFlow Serving's --model_config_file, instead of `models`.

    Raises:
        ValueError: The configuration can't be read or is wrong.
        OSError: An address can't be bound.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: it announces a lot
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    from serving.local_server.model_config import ModelConfig
    from serving.local_server.model_server import ModelServer
    from serving.local_server.serving_error import ServingError

    gc.freeze()  # TensorFlow's half a million objects stay; looking at them at each swap would hold up requests
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        if config_file is None:
            configs = [ModelConfig(name, path.absolute()) for name, path in models.items()]
        else:
            configs = ModelConfig.from_file(config_file)
        server = ModelServer(configs, options, config_file=config_file)
        server.start()
    except ServingError as error:
        raise ValueError(error.message) from error
    try:
        print(json.dumps({READY_KEY: server.address, "rest_address": server.rest_address}), flush=True)
        while not ended.wait(_LOOK_S):  # a signal that another thread was given doesn't wake an endless wait
            pass
    finally:
        server.stop()
