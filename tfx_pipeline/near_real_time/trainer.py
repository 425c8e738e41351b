"""StreamTrainer: a ranker that learns from one window of examples after the other."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_models.ranker import LiveRanker
from keras_models.ranker_config import RankerConfig
from serving.variables_bundle import read_weights
from tfx_pipeline.file_names import EXTRA_FOLDER, RANKER_FILE
from tfx_pipeline.near_real_time.array_file import ArrayFile
from tfx_pipeline.near_real_time.batch_order import batch_order, filled
from tfx_pipeline.near_real_time.config import StreamTrainingConfig
from tfx_pipeline.near_real_time.losses import StreamLosses


class StreamTrainer:
    """Scores and learns in functions of a fixed signature: windows have any number of examples, nothing is retraced.

    Moments of the optimizer are kept from window to window. What a window does to the weights follows from the weights,
    the optimizer's state, the examples in their order and `key` alone: so a loop that goes on after a crash comes to
    the same weights.

    It trains on one device.

    Args:
        ranker: The model; it is compiled here.
        training: How to learn from a window.
    """

    def __init__(self, ranker: LiveRanker, training: StreamTrainingConfig | None = None) -> None:
        self.ranker, self.training = ranker, training or StreamTrainingConfig()
        ranker.compile_defaults(self.training.learning_rate)
        ranker.optimizer.build(ranker.trainable_variables)
        own = {id(variable) for variable in ranker.metrics_variables}
        self._variables = [variable for variable in ranker.variables if id(variable) not in own]
        self._variables += list(ranker.optimizer.variables)
        self._touched: dict[str, list[np.ndarray]] = {}
        self._sparse: list[str] = []
        shapes = ranker.config.input_shapes
        self._score = tf.function(
            self._score_rows, input_signature=[_specs(shapes, self.training.scoring_rows)], autograph=False
        )
        labels = tf.TensorSpec((self.training.batch_size, len(ranker.config.tasks)), tf.float32)
        self._step = tf.function(
            self._train_rows,
            input_signature=[_specs(shapes, self.training.batch_size), labels, labels],
            autograph=False,
        )

    @classmethod
    def new(cls, config: RankerConfig, training: StreamTrainingConfig | None = None) -> "StreamTrainer":
        """One whose ranker has random weights, those of the seed."""
        training = training or StreamTrainingConfig()
        keras.utils.set_random_seed(training.seed)
        return cls(LiveRanker(config), training)

    @classmethod
    def from_version(cls, folder: Path, training: StreamTrainingConfig | None = None) -> "StreamTrainer":
        """One that goes on from a published version, or from a model that the pipeline exported.

        Weights are those of the SavedModel itself: of a pushed checkpoint nothing else is new.

        Raises:
            ValueError: If the folder has no ranker's configuration, or weights that don't belong to it.
        """
        trainer = cls.new(_config_of(Path(folder)), training)
        trainer.set_weights(read_weights(Path(folder)))
        return trainer

    def score(self, examples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Task -> float32 (B,) probabilities.

        Args:
            examples: Features by name, (B, ...); those of the ranker's inputs are looked at.
        """
        rows, size = _rows(examples), self.training.scoring_rows
        parts: dict[str, list[np.ndarray]] = {task: [] for task in self.ranker.config.tasks}
        for begin in range(0, rows, size):
            batch = {name: examples[name][begin : begin + size] for name in self.ranker.config.input_shapes}
            scores = self._score({name: tf.constant(filled(part, size)) for name, part in batch.items()})
            for task, part in parts.items():
                part.append(scores[task].numpy()[: min(size, rows - begin)])
        return {task: np.concatenate([np.zeros(0, np.float32), *part]) for task, part in parts.items()}

    def train(self, examples: Mapping[str, np.ndarray], steps: int | None = None, key: int = 0) -> StreamLosses:
        """Learns from a window.

        Args:
            examples: Features by name, (B, ...): the ranker's inputs, and label, label_mask and label_weight.
            steps: Number of steps; the window's examples come again and again if they are fewer. None for what the
                configuration says.
            key: Which order the examples come in, such as the window's end.
        """
        rows, size = _rows(examples), self.training.batch_size
        if rows == 0:
            return StreamLosses(np.zeros(0, np.float32), 0, 0)
        weights = examples["label_mask"] * examples["label_weight"]
        losses = []
        wanted = -(-rows * self.training.passes // size) if steps is None else steps
        wanted = wanted if steps is not None else min(wanted, self.training.most_steps)
        passes = self.training.passes if steps is None else None
        order, counts = batch_order(rows, size, wanted, passes, (self.training.seed, key))
        for step in range(wanted):
            chosen, counted = (part[step * size : (step + 1) * size] for part in (order, counts))
            inputs = {name: tf.constant(examples[name][chosen]) for name in self.ranker.config.input_shapes}
            label = tf.constant(examples["label"][chosen], tf.float32)
            loss, touched = self._step(inputs, label, tf.constant(weights[chosen] * counted[:, None], tf.float32))
            losses.append(float(loss))
            for path, indices in zip(self._sparse, touched, strict=True):
                self._touched.setdefault(path, []).append(np.unique(indices.numpy()))
        # Nobody may take them for long: as one array they are no more than the tables have rows.
        self._touched = {path: [np.unique(np.concatenate(parts))] for path, parts in self._touched.items()}
        learned = len(np.unique(order[counts > 0]))
        return StreamLosses(np.array(losses, np.float32), learned, rows - learned)

    def trace(self) -> None:
        """Builds the graphs, which the first calls do otherwise: it takes seconds that the first window would wait."""
        self._score.get_concrete_function()
        self._step.get_concrete_function()

    def take_touched(self) -> dict[str, np.ndarray]:
        """Path of each embedding table -> its rows that were trained since the last call, ascending."""
        touched, self._touched = self._touched, {}
        return {path: np.unique(np.concatenate(parts)) for path, parts in touched.items()}

    @property
    def traces(self) -> int:
        """How often the functions have been traced: twice at most, once each."""
        return self._score.experimental_get_tracing_count() + self._step.experimental_get_tracing_count()

    def state(self) -> list[np.ndarray]:
        """Copies of all that training changes: weights, the state of random numbers, the optimizer's."""
        return [np.array(variable.numpy()) for variable in self._variables]

    def set_state(self, state: Sequence[np.ndarray]) -> None:
        """Goes back to a `state` of this trainer; the learning rate is the configuration's, whatever it was then.

        Raises:
            ValueError: If it is another model's, or of other settings.
        """
        found, expected = [a.shape for a in state], [tuple(v.shape) for v in self._variables]
        if found != expected:
            raise ValueError(
                f"the state is of another model: it has {len(found)} variables, {_differing(found, expected)}"
            )
        for variable, array in zip(self._variables, state, strict=True):
            variable.assign(array)
        self.ranker.optimizer.learning_rate = self.training.learning_rate

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Takes weights in the order of `model.weights`; the optimizer's state stays as it is.

        Raises:
            ValueError: If they are of another model.
        """
        found, expected = [a.shape for a in weights], [tuple(v.shape) for v in self.ranker.weights]
        if found != expected:
            raise ValueError(f"the weights are of another model: there are {len(found)}, {_differing(found, expected)}")
        for variable, array in zip(self.ranker.weights, weights, strict=True):
            variable.assign(array)

    def weights_of(self, folder: Path) -> list[np.ndarray]:
        """Weights of a version, for `set_weights`; nothing is set yet.

        Raises:
            ValueError: If the version is of another model, be its weights of the same shapes: tasks in another order
                have.
            OSError: If its weights can't be read.
        """
        self._require_same(folder, _config_of(folder).to_dict())
        return read_weights(folder)

    def save(
        self,
        path: Path,
        facts: Mapping[str, Any] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        state: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Writes the state to one file, beside and renamed: killed at any byte, the earlier file stays.

        Args:
            facts: What belongs to it, in JSON's types.
            arrays: What belongs to it, too.
            state: One that `state` gave before, instead of a fresh one.
        """
        state = self.state() if state is None else state
        parts = {f"state/{index}": array for index, array in enumerate(state)}
        own = {"ranker": self.ranker.config.to_dict(), "facts": dict(facts or {})}
        ArrayFile(own, {**(arrays or {}), **parts}).save(path)

    def restore(self, path: Path) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
        """Takes up a saved state; gives the facts and arrays that were saved with it.

        Raises:
            ValueError: If the file is damaged, or of another model.
        """
        file = ArrayFile.load(path)
        self._require_same(path, file.facts["ranker"])
        count = sum(name.startswith("state/") for name in file.arrays)
        self.set_state([file.arrays[f"state/{index}"] for index in range(count)])
        self._touched = {}
        return file.facts["facts"], {n: a for n, a in file.arrays.items() if not n.startswith("state/")}

    def _require_same(self, path: Path, found: Mapping[str, Any]) -> None:
        wanted, found = (json.loads(json.dumps(values)) for values in (self.ranker.config.to_dict(), dict(found)))
        differing = sorted(name for name, value in wanted.items() if found.get(name) != value)
        if differing:
            raise ValueError(f"{path} is of another model; these settings differ: {', '.join(differing)}")

    def _score_rows(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {task: tf.reshape(score, (-1,)) for task, score in self.ranker(inputs, training=False).items()}

    def _train_rows(
        self, inputs: dict[str, tf.Tensor], label: tf.Tensor, weight: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        tasks, ranker = self.ranker.config.tasks, self.ranker
        with tf.GradientTape() as tape:
            scores = ranker(inputs, training=True)
            # The sum that `fit` takes. Keras's own function makes variables to report it by, and so is traced twice.
            parts = [
                keras.losses.BinaryCrossentropy()(label[:, k : k + 1], scores[task], sample_weight=weight[:, k])
                for k, task in enumerate(tasks)
            ]
            loss = tf.add_n([*parts, *ranker.losses])
        variables = ranker.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        ranker.optimizer.apply(gradients, variables)
        sparse = [(v, g) for v, g in zip(variables, gradients, strict=True) if isinstance(g, tf.IndexedSlices)]
        self._sparse = [variable.path for variable, _ in sparse]
        return loss, [gradient.indices for _, gradient in sparse]


def _config_of(folder: Path) -> RankerConfig:
    described = folder / EXTRA_FOLDER / RANKER_FILE
    try:
        return RankerConfig.from_dict(json.loads(described.read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is no version to start from: {described.name} can't be read: {error}") from error


def _rows(examples: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(examples.values())))


def _specs(shapes: Mapping[str, tuple[str, tuple[int, ...]]], rows: int) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec((rows, *shape), dtype, name=name) for name, (dtype, shape) in shapes.items()}


def _differing(found: Sequence[tuple[int, ...]], expected: Sequence[tuple[int, ...]]) -> str:
    if len(found) != len(expected):
        return f"expected {len(expected)}"
    at = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    return f"number {at} has shape {found[at]}, expected {expected[at]}"
