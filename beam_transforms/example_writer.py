"""Writes examples as TFRecord files of tf.Example, by span, train and eval apart."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

from beam_transforms.columnar import Columns, to_columns
from beam_transforms.schema import RankingSchema, schema_to_json
from beam_transforms.spans import SpanPlan


class WriteExamples(beam.PTransform):
    """(shard, batch of examples) -> files; gives one manifest (a dict) for each span.

    Layout: `<folder>/schema.json`, `<folder>/Span-<N>/{train,eval}/examples-<shard>-of-<shards>.tfrecord` and
    `<folder>/Span-<N>/manifest.json`. A file is written beside and renamed; the manifest comes last, so a span with a
    manifest is complete. Writing a span again replaces it.

    Args:
        folder: Where to write.
        schema: What an example is.
        plan: Which span and part an example belongs to.
        shards: Number of shards of the input.
    """

    def __init__(self, folder: Path, schema: RankingSchema, plan: SpanPlan, shards: int = 16) -> None:
        super().__init__()
        self._folder, self._schema, self._plan, self._shards = Path(folder), schema, plan, shards

    def expand(self, examples: beam.PCollection) -> beam.PCollection:
        return (
            examples
            | "Write" >> beam.FlatMapTuple(self._write)
            | "BySpan" >> beam.GroupByKey()
            | "Manifest" >> beam.MapTuple(self._manifest)
        )

    def _write(self, shard: int, batch: pa.RecordBatch) -> Iterator[tuple[int, dict[str, int]]]:
        times = batch.column(batch.schema.get_field_index("timestamp_ms")).to_numpy()
        spans = self._plan.span(times)
        is_eval = self._plan.is_eval(times)
        for span in np.unique(spans):
            counts = {"newest_event_ms": int(times[spans == span].max())}
            for part, chosen in (("train", ~is_eval), ("eval", is_eval)):
                rows = np.flatnonzero((spans == span) & chosen)
                counts[part] = len(rows)
                if len(rows):
                    records = encode_examples(to_columns([batch.take(pa.array(rows))]))
                    name = f"examples-{shard:05d}-of-{self._shards:05d}.tfrecord"
                    _write_records(self._folder / f"Span-{span}" / part / name, records)
            yield int(span), counts

    def _manifest(self, span: int, counts: list[dict[str, int]]) -> dict[str, int]:
        counts = list(counts)
        manifest = {
            "span": span,
            "begin_ms": self._plan.begin_ms(span),
            "end_ms": self._plan.begin_ms(span + 1),
            "eval_begin_ms": int(self._plan.eval_begin_ms(np.array([span]))[0]),
            "newest_event_ms": max(count["newest_event_ms"] for count in counts),
            "train": sum(count["train"] for count in counts),
            "eval": sum(count["eval"] for count in counts),
        }
        _write_json(self._folder / "schema.json", schema_to_json(self._schema))
        _write_json(self._folder / f"Span-{span}" / "manifest.json", manifest)
        return manifest


def encode_examples(columns: Columns) -> list[bytes]:
    """Rows as serialized tf.Example messages, equal rows to equal bytes.

    The library's encoder writes the features of a message in an order that differs from run to run. So each feature is
    encoded by itself, and the messages of a row are put one behind the other: to protobuf that is one message.
    """
    encoder = RecordBatchToExamplesEncoder()
    encoded = []
    for name, values in columns.items():
        width = 1 if values.ndim == 1 else values.shape[1]
        offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * width)
        lists = pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))
        encoded.append(encoder.encode(pa.RecordBatch.from_arrays([lists], names=[name])))
    return [b"".join(features) for features in zip(*encoded, strict=True)]


def _write_records(path: Path, records: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for record in records:
            writer.write(record)
    temporary.replace(path)


def _write_json(path: Path, value: dict) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)
