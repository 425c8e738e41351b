"""Gradient-boosted trees on the ranker's examples: what somebody would take instead of the ranker."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from beam_transforms.columnar import match_rows
from beam_transforms.impressions import IMPRESSION_KEY
from beam_transforms.schema import RankingSchema
from tfx_pipeline.example_dataset import example_batches

_RECENT = (1, 3, 10)  # windows


def tree_scores(span: Path, schema: RankingSchema, keys: Sequence[np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Task -> (rows,) scores of trees for the eval examples of a span.

    The trees see every dense feature of an example and a summary of its windows: of each metric the last value, means
    over the last 3, 10 and all windows, the deviation and the trend. They are scikit-learn's, with early stopping on a
    tenth of the train examples.

    Args:
        span: Folder with `train` and `eval`.
        schema: What the examples hold.
        keys: `user_id`, `live_id` and `timestamp_ms` of all eval examples, in the order in which scores are wanted.
        seed: Of the early stopping's split.
    """
    train, evaluated = _table(span / "train", schema), _table(span / "eval", schema)
    rows = match_rows([evaluated[name] for name in IMPRESSION_KEY], keys)
    scores = {}
    for column, task in enumerate(schema.task_names):
        known = train["label_mask"][:, column] > 0
        labels = train["label"][known, column]
        if len(np.unique(labels)) < 2:
            scores[task] = np.full(len(rows), labels.mean() if len(labels) else 0.0)
            continue
        model = HistGradientBoostingClassifier(
            learning_rate=0.08, max_iter=300, early_stopping=len(labels) > 1000, random_state=seed
        )
        model.fit(train["features"][known], labels)
        scores[task] = model.predict_proba(evaluated["features"][rows])[:, 1]
    return scores


def window_summary(sequence: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Summary of (B, T, N) windows with a (B, T) mask, (B, 6 N): padding counts as windows without an event."""
    means = [sequence[:, -recent:].mean(axis=1) for recent in _RECENT]
    return np.concatenate(
        [*means, sequence.mean(axis=1), sequence.std(axis=1), means[1] - means[2], mask.sum(axis=1, keepdims=True)],
        axis=1,
    )


def _table(folder: Path, schema: RankingSchema) -> dict[str, np.ndarray]:
    files = sorted(map(str, folder.glob("*.tfrecord")))
    dense = [f.name for f in schema.inputs if f.dtype == "float32" and not f.name.startswith("statistic_")]
    parts: dict[str, list[np.ndarray]] = {}
    for batch in example_batches(files, schema, batch_size=8192):
        examples: Mapping[str, np.ndarray] = {name: value.numpy() for name, value in batch.items()}
        windows = window_summary(examples["statistic_sequence"], examples["statistic_mask"])
        columns = {name: examples[name] for name in (*IMPRESSION_KEY, "label", "label_mask")}
        columns["features"] = np.concatenate([*(examples[name] for name in dense), windows], axis=1)
        for name, values in columns.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}
