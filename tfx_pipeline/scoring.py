"""Scores exported models over examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from beam_transforms.schema import RankingSchema
from tfx_pipeline.example_dataset import example_batches
from tfx_pipeline.predictions import Predictions

SIGNATURE = "serving_default"


class ModelUnusableError(ValueError):
    """An exported model can't be loaded, or doesn't answer what the schema asks."""


class ExportedModel:
    """The `serving_default` signature of a SavedModel, checked against the schema.

    Args:
        path: Folder of the SavedModel.
        schema: What it is asked: its inputs must be features of it, its outputs must include its tasks.

    Raises:
        ModelUnusableError: If the folder doesn't load, or has another signature; the message says what differs.
    """

    def __init__(self, path: Path, schema: RankingSchema) -> None:
        try:
            self._loaded = tf.saved_model.load(str(path))
        except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
            raise ModelUnusableError(f"{path} doesn't load as a SavedModel: {error}") from error
        if SIGNATURE not in self._loaded.signatures:
            raise ModelUnusableError(f"{path} has signatures {sorted(self._loaded.signatures)} and no {SIGNATURE!r}")
        self._function = self._loaded.signatures[SIGNATURE]
        self._inputs = self._function.structured_input_signature[1]
        _require_schema(self._inputs, self._function.structured_outputs, schema, path)
        self._tasks = schema.task_names

    def score(self, examples: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
        """Task -> (B,) probabilities for one batch of parsed examples."""
        outputs = self._function(**{name: examples[name] for name in self._inputs})
        return {task: outputs[task].numpy().reshape(-1) for task in self._tasks}


def score_models(
    models: Mapping[str, ExportedModel], files: Sequence[str], schema: RankingSchema, batch_size: int
) -> Predictions:
    """Scores every model on the same examples, which are read once; memory holds keys, labels and scores only.

    Raises:
        ValueError: If the files hold no example.
    """
    keys: dict[str, list[np.ndarray]] = {name: [] for name in ("user_id", "live_id", "timestamp_ms")}
    labels: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    scores: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in models}
    for examples in example_batches(files, schema, batch_size):
        for name, column in keys.items():
            column.append(examples[name].numpy())
        labels.append(examples["label"].numpy())
        masks.append(examples["label_mask"].numpy() > 0)
        for name, model in models.items():
            scores[name].append(model.score(examples))
    if not labels:
        raise ValueError(f"there is no example to evaluate on in {list(files)}")
    label, mask = np.concatenate(labels), np.concatenate(masks)
    columns = {name: np.concatenate(column) for name, column in keys.items()}
    return Predictions(
        user_id=columns["user_id"],
        live_id=columns["live_id"],
        timestamp_ms=columns["timestamp_ms"],
        labels={task: label[:, k] for k, task in enumerate(schema.task_names)},
        masks={task: mask[:, k] for k, task in enumerate(schema.task_names)},
        scores={
            name: {task: np.concatenate([batch[task] for batch in batches]) for task in schema.task_names}
            for name, batches in scores.items()
        },
    )


def _require_schema(
    inputs: Mapping[str, tf.TensorSpec], outputs: Mapping[str, tf.TensorSpec], schema: RankingSchema, path: Path
) -> None:
    features = {feature.name: feature for feature in schema.inputs}
    for name, specification in inputs.items():
        if name not in features:
            raise ModelUnusableError(f"{path} asks for the input {name!r}, which schema {schema.name!r} doesn't have")
        expected = tf.TensorSpec((None, *features[name].shape), features[name].dtype)
        if not specification.is_compatible_with(expected):
            raise ModelUnusableError(
                f"{path} takes {name!r} as {specification.shape} {specification.dtype.name}; in schema {schema.name!r} "
                f"it is {expected.shape} {expected.dtype.name}"
            )
    missing = sorted(set(schema.task_names) - set(outputs))
    if missing:
        raise ModelUnusableError(f"{path} gives no score for the tasks {missing}; it gives {sorted(outputs)}")
