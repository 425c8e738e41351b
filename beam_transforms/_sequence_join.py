"""Queries joined with the sequence features of their key: the wiring that SidSequences and ProductSequences share."""

import abc
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import Columns, empty, mix, to_batch, to_columns
from beam_transforms.sharding import ShardBy, shard_numbers

_QUERIES = "queries"


class SequenceJoin(beam.PTransform, abc.ABC):
    """A dict of PCollections of batches, rows and `queries` -> batches of the queries with their features.

    What else a query has is carried along as it is: any type, with its nulls. Batches of queries that differ in their
    columns are widened to what holds them all.

    Args:
        name: Name of the rows in the input.
        columns: Name -> dtype of the rows' columns.
        key: Column of both that says what belongs together.
        shards: Number of groups of keys.

    Raises:
        ValueError: If the number of shards isn't positive, or the input isn't such a dict; while it runs, if a batch
            lacks a column, or one that the features are made of isn't int64 or has a null.
    """

    def __init__(self, name: str, columns: Mapping[str, str], key: str, shards: int) -> None:
        super().__init__()
        if shards <= 0:
            raise ValueError(f"shards must be positive, got {shards}")
        self._name, self._columns, self._key, self._shards = name, dict(columns), key, shards

    @abc.abstractmethod
    def features(self, rows: Columns, queries: Columns) -> Columns:
        """The features of each query (`key` and `as_of_ms`), from all rows of the keys asked for."""

    def expand(self, inputs):  # annotated with a dict, Beam warns
        if set(inputs) != {self._name, _QUERIES}:
            raise ValueError(f"expected a dict of the PCollections {self._name!r} and {_QUERIES!r}, got {list(inputs)}")
        needed = {self._name: tuple(self._columns), _QUERIES: (self._key, "as_of_ms")}
        shard = {
            self._name: ShardBy(self._key, self._shards),
            _QUERIES: beam.FlatMap(self._shard).with_output_types(tuple[int, pa.RecordBatch]),
        }
        sharded = [
            batches
            | f"Check_{name}" >> beam.Map(self._checked, name, needed[name]).with_output_types(pa.RecordBatch)
            | f"Shard_{name}" >> shard[name]
            for name, batches in inputs.items()
        ]
        return (
            sharded
            | beam.Flatten()
            | beam.GroupByKey()
            | beam.FlatMapTuple(self._join).with_output_types(pa.RecordBatch)
        )

    def _checked(self, batch: pa.RecordBatch, name: str, needed: tuple[str, ...]) -> pa.RecordBatch:
        missing = [column for column in needed if column not in batch.schema.names]
        if missing:
            raise ValueError(f"{name} need the columns {list(needed)}, {missing} missing; got {batch.schema.names}")
        for column in needed:
            values = batch.column(column)
            if not pa.types.is_int64(values.type):
                raise ValueError(f"{name}: the column {column!r} must be int64, got {values.type}; cast it")
            if values.null_count:
                raise ValueError(
                    f"{name}: the column {column!r} must not hold nulls, got {values.null_count} in {len(values)} "
                    "rows; leave those rows out"
                )
        return batch if name == _QUERIES else batch.select(list(needed))

    def _shard(self, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        """What `ShardBy` does, for columns of any type and with nulls."""
        shards = shard_numbers(mix(batch.column(self._key).to_numpy()), self._shards)
        order, ends = np.argsort(shards, kind="stable"), np.cumsum(np.bincount(shards))
        for shard, rows in enumerate(np.split(order, ends[:-1])):
            if len(rows):
                yield shard, batch.take(pa.array(rows))

    def _join(self, _shard: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows: list[pa.RecordBatch] = []
        queries: list[pa.RecordBatch] = []
        for batch in batches:
            (queries if "as_of_ms" in batch.schema.names else rows).append(batch)
        if queries:
            tables = [pa.Table.from_batches([batch]) for batch in queries]
            asked = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
            known = to_columns(rows) if rows else empty(self._columns)
            keys = {name: asked[name].to_numpy() for name in (self._key, "as_of_ms")}
            features = to_batch(self.features(known, keys))
            answered = asked.select([name for name in asked.column_names if name not in features.schema.names])
            for name, values in zip(features.schema.names, features.columns, strict=True):
                answered = answered.append_column(name, values)
            yield from answered.to_batches()


def in_front(values: np.ndarray, positions: np.ndarray, known: np.ndarray, padding: int) -> np.ndarray:
    """`values[positions]` where known, else `padding`; of shape (*positions.shape, *values.shape[1:])."""
    if not len(values):
        return np.full((*positions.shape, *values.shape[1:]), padding, dtype=values.dtype)
    known = known.reshape(known.shape + (1,) * (values.ndim - 1))
    return np.where(known, values[np.where(positions < 0, 0, np.minimum(positions, len(values) - 1))], padding)
