"""BatchingParameters: how requests are put together."""

import dataclasses
import os
from pathlib import Path

from google.protobuf import text_format

from serving.protos import server_config_pb2


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """TensorFlow Serving's, with its defaults. A row is one entry along the first dimension of a request's inputs.

    Attributes:
        max_batch_size: Most rows computed together; a larger request is refused.
        batch_timeout_micros: How long the first request of a batch waits for others while a thread is free.
        max_enqueued_batches: Batches that may wait, for each signature and shape of a version.
        num_batch_threads: Batches computed at the same time.
        allowed_batch_sizes: Numbers of rows that a batch is filled up to; () computes batches as they are.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for parameters that TensorFlow Serving refuses too."""
        for name, least in (
            ("max_batch_size", 1),
            ("batch_timeout_micros", 0),
            ("max_enqueued_batches", 1),
            ("num_batch_threads", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_size):
            raise ValueError(
                "allowed_batch_sizes must be positive, increase, and end with max_batch_size "
                f"({self.max_batch_size}), got {list(sizes)}"
            )

    @classmethod
    def from_file(cls, path: Path) -> "BatchingParameters":
        """From a file as TensorFlow Serving's --batching_parameters_file: BatchingParameters as text.

        Raises:
            OSError: The file can't be read.
            ValueError: It isn't BatchingParameters, or has values that can't be honoured.
        """
        proto = server_config_pb2.BatchingParameters()
        try:
            text_format.Parse(path.read_text(), proto)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} are no BatchingParameters: {error}") from error
        if proto.pad_variable_length_inputs or proto.enable_large_batch_splitting.value:
            raise ValueError(
                f"{path}: the local server neither pads variable lengths (it batches equal shapes only) nor splits "
                "large batches; leave pad_variable_length_inputs and enable_large_batch_splitting out"
            )
        names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
        given = {name: getattr(proto, name).value for name in names if proto.HasField(name)}
        try:
            return cls(**given, allowed_batch_sizes=tuple(proto.allowed_batch_sizes))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def padded(self, rows: int) -> int:
        """How many rows a batch of `rows` rows is computed with."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)
