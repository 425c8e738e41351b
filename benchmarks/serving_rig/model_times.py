"""ModelTimes: what the model itself takes, without a server."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class ModelTimes:
    """Sessions of one version in this process, as the C++ loader opens them; a context manager that closes them.

    Args:
        version: Folder of the version.
        inputs: Signature -> its arrays.
    """

    def __init__(self, version: Path, inputs: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        import tensorflow as tf

        from serving.local_server.server_options import ServerOptions

        served = ServerOptions()
        self._sessions: list[Any] = []
        self._calls: dict[tuple[str, str], Any] = {}
        for kind, intra, inter in (
            ("one thread", 1, 1),
            ("as served", served.intra_op_threads, served.inter_op_threads),
        ):
            config = tf.compat.v1.ConfigProto(
                intra_op_parallelism_threads=intra, inter_op_parallelism_threads=inter, use_per_session_threads=True
            )
            session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
            self._sessions.append(session)
            with session.graph.as_default():
                loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(version))
            for name, arrays in inputs.items():
                signature = loaded.signature_def[name]
                call = session.make_callable(
                    [info.name for info in signature.outputs.values()],
                    feed_list=[info.name for info in signature.inputs.values()],
                )
                self._calls[kind, name] = (call, [np.asarray(arrays[key]) for key in signature.inputs])

    def milliseconds(self, kind: str, signature: str, repeats: int) -> list[float]:
        """Of calls one after the other; kind: "one thread", or "as served" with the local server's defaults."""
        call, feeds = self._calls[kind, signature]
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            call(*feeds)
            times.append(1000 * (time.perf_counter() - begin))
        return times

    def __enter__(self) -> "ModelTimes":
        return self

    def __exit__(self, *_: object) -> None:
        for session in self._sessions:
            session.close()
