"""Writes a stream of examples as TFRecord files of tf.Example, by span, part, shard and window."""

import functools
import json
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf

from beam_transforms.columnar import Columns, hash_rows, split_by_shard, take, to_columns
from beam_transforms.events import RecordBatchCoder
from beam_transforms.example_writer import encode_examples
from beam_transforms.impressions import IMPRESSION_KEY
from beam_transforms.schema import WINDOW_MS, RankingSchema, schema_to_json
from beam_transforms.spans import SpanPlan
from beam_transforms.window_files import WriteWindowFiles, file_name, replace_file

_CODER = RecordBatchCoder()
EXAMPLE_ORDER = ("timestamp_ms", "user_id", "live_id", "emitted_ms")
"""What examples are sorted by, the first key first, in whatever order their events came."""


class WriteStreamedExamples(beam.PTransform):
    """Batches of examples as `FeatureStages` gives them -> files; gives (path, examples) of each.

    Layout: `<folder>/schema.json` and `<folder>/Span-<N>/{train,eval}/examples-<window>-<shard>-of-<shards>.tfrecord`,
    where the window, by its end in milliseconds, is the one in which labels became final: when the watermark was the
    allowed lateness past them. A span's files come in many windows; `WriteExamples` names them otherwise, so that both
    are read alike.

    Unbounded input. A file is written beside and renamed, in an order that follows from its content: after a crash the
    same files are written again, byte for byte.

    Args:
        folder: Where to write.
        schema: What an example is.
        plan: Which span and part an example belongs to, by the time of its impression.
        shards: Number of files of a window, span and part that can be written in parallel.
    """

    def __init__(self, folder: Path, schema: RankingSchema, plan: SpanPlan, shards: int = 16) -> None:
        super().__init__()
        self._folder, self._schema, self._plan, self._shards = Path(folder), schema, plan, shards

    def expand(self, examples: beam.PCollection) -> beam.PCollection:
        sharded = examples | beam.FlatMap(self._by_impression).with_output_types(tuple[int, bytes])
        return sharded | WriteWindowFiles(self._write)

    def _by_impression(self, batch: pa.RecordBatch) -> list[tuple[int, bytes]]:
        keys = [batch.column(batch.schema.get_field_index(name)).to_numpy() for name in IMPRESSION_KEY]
        return [(shard, _CODER.encode(part)) for shard, part in split_by_shard(batch, _shard(keys, self._shards))]

    def _write(self, shard: int, end_ms: int, batches: list[bytes]) -> list[tuple[str, int]]:
        examples = to_columns([_CODER.decode(batch) for batch in batches])
        return _write_shard(self._folder, self._schema, self._plan, file_name(end_ms, shard, self._shards), examples)


def write_examples(
    folder: Path, schema: RankingSchema, plan: SpanPlan, shards: int, lateness_ms: int, examples: Columns
) -> list[tuple[str, int]]:
    """Writes the files that `WriteStreamedExamples` would, from all examples of one window or of several in a row.

    Args:
        lateness_ms: The allowed lateness: it tells in which window an example came.
        examples: All columns of shape (B,) or (B, width).

    Returns:
        Path and number of examples of each file.
    """
    ends = -(-(examples["emitted_ms"] + lateness_ms) // WINDOW_MS) * WINDOW_MS
    shard = _shard([examples[name] for name in IMPRESSION_KEY], shards)
    written = []
    for end_ms in np.unique(ends):
        for number in np.unique(shard[ends == end_ms]):
            rows = take(examples, np.flatnonzero((ends == end_ms) & (shard == number)))
            written += _write_shard(folder, schema, plan, file_name(int(end_ms), int(number), shards), rows)
    return written


def _shard(keys: list[np.ndarray], shards: int) -> np.ndarray:
    return (hash_rows(keys) % np.uint64(shards)).astype(np.int64)


def _write_shard(
    folder: Path, schema: RankingSchema, plan: SpanPlan, name: str, examples: Columns
) -> list[tuple[str, int]]:
    records = encode_examples({feature.name: examples[feature.name] for feature in schema.features})
    content = np.argsort(np.argsort(np.array(records, dtype=object)))
    order = np.lexsort([content, *(examples[name] for name in EXAMPLE_ORDER[::-1])])
    spans, is_eval = plan.span(examples["timestamp_ms"]), plan.is_eval(examples["timestamp_ms"])
    written = []
    for span in np.unique(spans):
        for part, inside in (("train", ~is_eval), ("eval", is_eval)):
            rows = order[((spans == span) & inside)[order]]
            if len(rows):
                path = folder / f"Span-{span}" / part / f"examples-{name}.tfrecord"
                chosen = [records[row] for row in rows]
                replace_file(path, functools.partial(_write_records, records=chosen))
                written.append((str(path), len(rows)))
    described = folder / "schema.json"
    if not described.exists():
        text = json.dumps(schema_to_json(schema), indent=2) + "\n"
        replace_file(described, lambda temporary: temporary.write_text(text))
    return written


def _write_records(path: Path, records: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
