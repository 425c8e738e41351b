"""Scored examples as columns."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Labels and scores of one set of examples; every array is (rows,) and in the same order.

    Attributes:
        user_id: int64.
        live_id: int64.
        timestamp_ms: int64, when the impression happened.
        labels: Task -> 0 or 1.
        masks: Task -> whether the label is known.
        scores: Model ("candidate", "baseline") -> task -> predicted probability.
    """

    user_id: np.ndarray
    live_id: np.ndarray
    timestamp_ms: np.ndarray
    labels: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    scores: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def rows(self) -> int:
        return len(self.user_id)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def without(self, model: str) -> "Predictions":
        """The same rows without the scores of one model."""
        return dataclasses.replace(self, scores={name: of for name, of in self.scores.items() if name != model})

    def write_parquet(self, path: Path) -> None:
        """Columns user_id, live_id, timestamp_ms, then label_, mask_, score_ and, with a baseline, baseline_score_ of
        each task."""
        columns: dict[str, np.ndarray] = {
            "user_id": self.user_id,
            "live_id": self.live_id,
            "timestamp_ms": self.timestamp_ms,
        }
        for task in self.tasks:
            columns[f"label_{task}"] = self.labels[task].astype(np.int8)
            columns[f"mask_{task}"] = self.masks[task]
            columns[f"score_{task}"] = self.scores["candidate"][task]
            if "baseline" in self.scores:
                columns[f"baseline_score_{task}"] = self.scores["baseline"][task]
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        pq.write_table(pa.table(columns), temporary)
        temporary.replace(path)
