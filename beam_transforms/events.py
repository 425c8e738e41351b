"""A batch of events as an Arrow record batch: its schema, how one is built and checked, and how Beam encodes it."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam import coders

from beam_transforms._narrow_integers import narrow, widen
from beam_transforms.schema import EVENT_COLUMNS, PADDING_ID, EventKind

EVENT_ARROW_SCHEMA = pa.schema([(name, pa.type_for_alias(dtype)) for name, dtype in EVENT_COLUMNS.items()])
"""The Arrow schema of a batch of events: `EVENT_COLUMNS`. No column holds a null."""

_KINDS = np.array(sorted(EventKind), dtype=np.int64)
_SAMPLE = 2048  # bytes of a column
_LZ4 = pa.Codec("lz4_raw")
_ROOM_KINDS = np.array([EventKind.ROOM_START, EventKind.ROOM_END], dtype=np.int64)


def event_batch(
    kind: npt.ArrayLike,
    timestamp_ms: npt.ArrayLike,
    user_id: npt.ArrayLike,
    author_id: npt.ArrayLike,
    live_id: npt.ArrayLike,
    value: npt.ArrayLike = 1.0,
) -> pa.RecordBatch:
    """Builds a record batch with schema `EVENT_ARROW_SCHEMA` from columns, and checks what they hold.

    Args:
        kind: Numbers of `EventKind`. This and every column below has the shape (events,), or is one number for all.
        timestamp_ms: Event time >= 0, milliseconds since the epoch, UTC; shape (events,), it says how many events there
            are.
        user_id: Ids >= 0, and `PADDING_ID` exactly where the kind is `ROOM_START` or `ROOM_END`.
        author_id: Ids >= 0.
        live_id: Ids >= 0.
        value: In the unit that `EventKind` gives for the kind.

    Raises:
        ValueError: If a column has another shape, isn't made of integers (of numbers for `value`), or holds an unknown
            kind, an id or a time that isn't allowed or a value that isn't finite.
    """
    given = dict(zip(EVENT_COLUMNS, (kind, timestamp_ms, user_id, author_id, live_id, value), strict=True))
    shape = np.shape(timestamp_ms)
    if len(shape) != 1:
        raise ValueError(f"timestamp_ms must have the shape (events,), got {shape}")
    columns = {}
    for name, values in given.items():
        array = np.asarray(values)
        if array.shape not in ((), shape):
            raise ValueError(f"{name} must have the shape {shape} of timestamp_ms or be one number, got {array.shape}")
        if array.dtype.kind not in ("iuf" if name == "value" else "iu"):
            wanted = "numbers" if name == "value" else "integers"
            raise ValueError(f"{name} must hold {wanted}, got dtype {array.dtype}")
        columns[name] = np.broadcast_to(array, shape)
    check_events(columns)
    arrays = [pa.array(np.ascontiguousarray(columns[name], dtype=dtype)) for name, dtype in EVENT_COLUMNS.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=EVENT_ARROW_SCHEMA)


def check_events(columns: dict[str, np.ndarray]) -> None:
    """Checks what columns of events hold.

    Raises:
        ValueError: If there is an unknown kind, an id or a time that isn't allowed or a value that isn't finite.
    """
    unknown = ~np.isin(columns["kind"], _KINDS)
    if unknown.any():
        raise ValueError(f"kind must be a number of EventKind, got {np.unique(columns['kind'][unknown])[:5].tolist()}")
    of_room = np.isin(columns["kind"], _ROOM_KINDS)
    wrong = np.where(of_room, columns["user_id"] != PADDING_ID, columns["user_id"] < 0)
    if wrong.any():
        raise ValueError(
            f"user_id must be >= 0, and {PADDING_ID} for ROOM_START and ROOM_END; "
            f"got {int(columns['user_id'][wrong][0])} for {EventKind(int(columns['kind'][wrong][0])).name}"
        )
    for name in ("author_id", "live_id", "timestamp_ms"):
        if columns[name].size and columns[name].min() < 0:
            raise ValueError(f"{name} must be >= 0, got {int(columns[name].min())}")
    if not np.isfinite(columns["value"]).all():
        raise ValueError("value must be finite, got NaN or infinity")


class RecordBatchCoder(coders.Coder):
    """Encodes a `pyarrow.RecordBatch` as an Arrow IPC stream, with integers in as few bytes as they need.

    A log of events takes half its size that way, as it would with LZ4 in more time. What LZ4 makes smaller still, by a
    sample of it, is compressed too.

    Equal batches without nulls have equal bytes (a slice is encoded as what it shows), so the coder is deterministic
    for them; every batch of this project is one.
    """

    def encode(self, value: pa.RecordBatch) -> bytes:
        if value.nbytes != value.get_total_buffer_size():
            # A slice: IPC pads its buffers with the neighbours' bytes, which would make equal batches differ.
            value = value.take(pa.array(np.arange(value.num_rows)))
        sink = pa.BufferOutputStream()
        narrowed = narrow(value)
        compression = "lz4" if _compressible(narrowed) else None
        options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
        with pa.ipc.new_stream(sink, narrowed.schema, options=options) as writer:
            writer.write_batch(narrowed)
        return sink.getvalue().to_pybytes()

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """Bytes in memory: runners ask for many batches, and encoding one to answer would cost twice."""
        return value.nbytes

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_stream(pa.py_buffer(encoded), options=options) as reader:
            return widen(reader.read_next_batch())

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type:
        return pa.RecordBatch

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


def _compressible(batch: pa.RecordBatch) -> bool:
    """Whether LZ4 makes a batch a quarter of its size or less, as far as the beginnings of its columns tell."""
    buffers = [buffer for array in batch.columns for buffer in array.buffers() if buffer is not None and buffer.size]
    size = sum(buffer.size for buffer in buffers)
    if size < 16 * _SAMPLE:
        return False
    expected = 0.0
    for buffer in buffers:
        sample = buffer.slice(0, min(_SAMPLE, buffer.size))
        expected += buffer.size * min(_LZ4.compress(sample).size / sample.size, 1.0)
    return expected < size / 4


def register_coders() -> None:
    """Makes `RecordBatchCoder` Beam's coder for record batches in this process; calling it again changes nothing."""
    coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)
