"""How many segments have each code: what drift is computed from."""

from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa


class CountCodes(beam.PTransform):
    """Batches of semantic ids -> one int64 array of shape (K,): the number of segments of each code.

    One array for all of a bounded input, or for each window if the batches are in windows of their own; see
    `codebook_drift.drift` for what to do with two of them. Rows are counted as they come, duplicates too.

    Args:
        codes: K, the size of the codebook.

    Raises:
        ValueError: If `codes` isn't positive; or, while counting, if a semantic id isn't of such a codebook.
    """

    def __init__(self, codes: int) -> None:
        super().__init__()
        if codes <= 0:
            raise ValueError(f"codes must be positive, got {codes}")
        self._codes = codes

    def expand(self, semantic_ids: beam.PCollection) -> beam.PCollection:
        return semantic_ids | beam.CombineGlobally(_Counts(self._codes)).without_defaults()


class _Counts(beam.CombineFn):
    def __init__(self, codes: int) -> None:
        self._codes = codes

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(self._codes, dtype=np.int64)

    def add_input(self, counts: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        semantic_id = batch.column(batch.schema.get_field_index("semantic_id")).to_numpy()
        if len(semantic_id) and not 0 <= semantic_id.min() <= semantic_id.max() < self._codes:
            raise ValueError(
                f"semantic ids must be from 0 to {self._codes - 1}, got {semantic_id.min()} to {semantic_id.max()}: "
                "they are of another codebook"
            )
        return counts + np.bincount(semantic_id, minlength=self._codes)

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return np.sum(list(accumulators), axis=0)

    def extract_output(self, counts: np.ndarray) -> np.ndarray:
        return counts
