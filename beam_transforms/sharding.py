"""Splitting batches by a hash of an id, so that everything about one id meets in one place."""

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import mix, split_by_shard


class ShardBy(beam.PTransform):
    """Batches -> (shard, batch): rows of one id always go to one shard, the same in every run.

    Args:
        column: The id column.
        shards: Number of shards.

    Raises:
        ValueError: If the number of shards isn't positive.
    """

    def __init__(self, column: str, shards: int) -> None:
        super().__init__()
        if shards <= 0:
            raise ValueError(f"shards must be positive, got {shards}")
        self._column, self._shards = column, shards

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | beam.FlatMap(self._split).with_output_types(tuple[int, pa.RecordBatch])

    def _split(self, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        if batch.num_rows:
            ids = batch.column(batch.schema.get_field_index(self._column)).to_numpy()
            yield from split_by_shard(batch, shard_numbers(mix(ids), self._shards))


def shard_numbers(hashes: np.ndarray, shards: int) -> np.ndarray:
    """Hashes, uint64 -> numbers below `shards`, int64."""
    of_power = shards & (shards - 1) == 0  # the same without a division
    numbers = hashes & np.uint64(shards - 1) if of_power else hashes % np.uint64(shards)
    return numbers.astype(np.int64)
