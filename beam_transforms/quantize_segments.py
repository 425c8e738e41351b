"""Quantisation of segments: embedding -> semantic id (Foresight Prediction, 3.1)."""

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_transforms.codebook import Codebook
from beam_transforms.read_events import DEAD_LETTERS
from beam_transforms.sources.source import DeadLetter

SEGMENT_IDS = ("live_id", "author_id", "timestamp_ms")
"""Columns of a segment beside its `embedding`, and of a semantic id beside its `semantic_id`, all int64.

`timestamp_ms` is the segment's last millisecond. Segments may have any length; one is one semantic id.
"""


class QuantizeSegments(beam.PTransform):
    """Batches of segments -> batches of semantic ids: the number of the code nearest to a segment's embedding.

    Input has the int64 columns `SEGMENT_IDS` and `embedding`, a fixed-size list of W float32. Output has `SEGMENT_IDS`
    and `semantic_id`; its rows are the input's, in their order, less those under the tag `dead_letters` (dicts as
    `ReadEvents` gives them): segments without a room, author or time, or whose embedding is missing or holds NaN or
    infinity. Other columns are dropped.

    Stateless: bounded and unbounded input, any window, lateness as it comes in; a row's result depends on nothing but
    the row. The counters `quantize/segments` and `quantize/dead_letters` say how many there were.

    Args:
        codebook: The codes. Its version belongs beside what is made of the semantic ids.

    Raises:
        ValueError: While it runs, if a batch lacks a column or its embeddings are of another width than the codes.
    """

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self._codebook = codebook

    def expand(self, segments: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        quantize = beam.ParDo(_Quantize(self._codebook)).with_output_types(pa.RecordBatch)
        return segments | quantize.with_outputs(DEAD_LETTERS, main="semantic_ids")


class _Quantize(beam.DoFn):
    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self._codebook = codebook
        self._segments = beam.metrics.Metrics.counter("quantize", "segments")
        self._dead_letters = beam.metrics.Metrics.counter("quantize", DEAD_LETTERS)

    def process(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        _check(batch, self._codebook)
        ids = {name: batch.column(name) for name in SEGMENT_IDS}
        known = np.ones(batch.num_rows, dtype=bool)
        for values in ids.values():
            known &= np.asarray(pc.fill_null(pc.greater_equal(values, 0), False))
        semantic_id = self._codebook.assign(_embeddings(batch.column("embedding"), self._codebook.width))
        good = known & (semantic_id >= 0)
        for row in np.flatnonzero(~good):
            self._dead_letters.inc()
            yield beam.pvalue.TaggedOutput(DEAD_LETTERS, _dead_letter(batch, int(row), bool(known[row])))
        if good.any():
            rows = pa.array(np.flatnonzero(good))
            self._segments.inc(len(rows))
            arrays = [values.take(rows) for values in ids.values()]
            yield pa.RecordBatch.from_arrays([*arrays, pa.array(semantic_id[good])], [*ids, "semantic_id"])


def _check(batch: pa.RecordBatch, codebook: Codebook) -> None:
    missing = [name for name in (*SEGMENT_IDS, "embedding") if name not in batch.schema.names]
    if missing:
        raise ValueError(
            f"segments need the columns {[*SEGMENT_IDS, 'embedding']}, {missing} missing; got {batch.schema.names}"
        )
    for name in SEGMENT_IDS:
        if not pa.types.is_int64(batch.schema.field(name).type):
            raise ValueError(f"column {name} of segments must be int64, got {batch.schema.field(name).type}")
    kind = batch.schema.field("embedding").type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        raise ValueError(f"embedding must be a fixed-size list of {codebook.width} float32, got {kind}")
    if kind.list_size != codebook.width:
        raise ValueError(
            f"segments have embeddings of width {kind.list_size}, but codebook {codebook.version} has {codebook.size} "
            f"codes of width {codebook.width}; use the codebook that was trained on such embeddings"
        )


def _embeddings(column: pa.FixedSizeListArray, width: int) -> np.ndarray:
    """float32 of shape (rows, W), NaN where an embedding is missing."""
    if not column.null_count:
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32, copy=False)
    embeddings = np.full((len(column), width), np.nan, dtype=np.float32)
    there = np.asarray(column.is_valid())
    embeddings[there] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return embeddings


def _dead_letter(batch: pa.RecordBatch, row: int, known: bool) -> dict[str, object]:
    values = {name: batch.column(name)[row].as_py() for name in SEGMENT_IDS}
    reason = (
        "expected an embedding of finite numbers, got one that is missing or holds NaN or infinity"
        if known
        else f"expected {', '.join(SEGMENT_IDS)} >= 0, got {', '.join(str(value) for value in values.values())}"
    )
    return dataclasses.asdict(DeadLetter("segments", row + 1, reason, str(values)))
