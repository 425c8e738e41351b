"""ServerOptions: how the local server listens, and how much it takes on."""

import dataclasses
import os
from pathlib import Path


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """All that isn't a model. `foresight serve --help` says the same in other words.

    Attributes:
        host: Address to listen on. There is no access control: whoever reaches it can load any model.
        port: Of the gRPC interface; 0 takes a free one.
        rest_port: Of the REST interface; 0 takes a free one, None has no REST interface.
        poll_s: Seconds between two looks for new versions.
        prepare_next: Whether a session is kept ready for the next version with the same graph, which then is available
            in a fraction of the time; it needs the memory of one version.
        config_poll_s: Seconds between two looks at the file that the models were read from; 0 reads it once.
        labels_before_versions: Whether a label that is new may name a version that isn't available yet.
        active: Requests computed at the same time; None for two a core.
        waiting: Requests that may wait for their turn; one more is refused.
        max_message_bytes: Largest request and answer, over gRPC and REST.
        request_s: Seconds that a REST request may take to arrive, then again to be answered; and that the message of a
            gRPC request may take to arrive.
        idle_s: Seconds after which an open REST connection without a request is closed.
        rest_connections: Open REST connections; one more is refused.
        keepalive_s: Seconds without a sign of life after which a gRPC client is asked for one; without an answer
            within as many seconds its connection is closed.
        tensor_content: Whether answers hold `tensor_content` instead of repeated values.
        ssl_config: File with an SSLConfig as text, for gRPC.
        batching: Whether requests are computed together.
        batching_parameters: File with BatchingParameters as text.
        intra_op_threads: Threads that one operation of a model may use; 0 leaves it to TensorFlow.
        inter_op_threads: Threads of all models for operations that don't need each other; 0 leaves it to TensorFlow,
            -1 computes each request in the thread that has it.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int | None = 8501
    poll_s: float = 1.0
    prepare_next: bool = True
    config_poll_s: float = 0.0
    labels_before_versions: bool = False
    active: int | None = None
    waiting: int = 128
    max_message_bytes: int = 64 * 2**20
    request_s: float = 30.0
    idle_s: float = 60.0
    rest_connections: int = 128
    keepalive_s: float = 30.0
    tensor_content: bool = False
    ssl_config: Path | None = None
    batching: bool = False
    batching_parameters: Path | None = None
    intra_op_threads: int = 0
    inter_op_threads: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for options that contradict each other."""
        if self.batching_parameters is not None and not self.batching:
            raise ValueError(f"batching parameters {self.batching_parameters} are given, but batching isn't enabled")

    @property
    def workers(self) -> int:
        """How many requests are computed at the same time."""
        return 2 * _cores() if self.active is None else self.active
