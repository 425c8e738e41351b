"""How well shared-bottom, MMoE and PLE, made of our layers, learn two tasks of the census-income data at once."""

import csv
import dataclasses
import gzip
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from benchmarks.harness import goal, report
from keras_models.layers.grouped_dense import GroupedDense
from keras_models.layers.multi_gate_mixture_of_experts import MultiGateMixtureOfExperts
from keras_models.layers.progressive_layered_extraction import ProgressiveLayeredExtraction
from keras_models.metrics import auc

TASKS = ("income", "never_married")
BATCH = 1024
EPOCHS = 20

_NUMERIC = (0, 5, 16, 17, 18, 30, 39)  # age, wage, capital gains and losses, dividends, employer's size, weeks worked
_LEFT_OUT = (7, 24, 41)  # marital_stat, which gives the second task away, instance_weight, and the income itself
_GOALS = {"income": 0.942, "never_married": 0.994}

OPTIONS = [
    click.Option(
        ["--input", "folder"],
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        required=True,
        help="The folder with census-income.test.gz and split.csv.",
    ),
    click.Option(["--seeds"], type=click.IntRange(1), default=3, show_default=True, help="Number of seeds."),
    click.Option(["--epochs"], type=click.IntRange(1), default=EPOCHS, show_default=True, help="The most epochs."),
]


@dataclasses.dataclass(frozen=True)
class Rows:
    """One part of the data: `ids` (B, 32) rows of one table, `numeric` (B, 7), `labels` (B, 2)."""

    ids: NDArray[np.int32]
    numeric: NDArray[np.float32]
    labels: NDArray[np.float32]


def run(folder: Path, seeds: int = 3, epochs: int = EPOCHS) -> dict[str, Any]:
    """Test AUC of each model and task, a run per seed; which epoch to keep is decided on the validation rows alone.

    Returns:
        What `harness.report` makes of the goals for MMoE, and `test_auc`: {model: {task: {mean, low, high}}}, `epochs`
        and `cpu_seconds` of each run by model, and `parameters` by model.
    """
    parts, table_rows = read(folder)
    result: dict[str, dict[str, Any]] = {"test_auc": {}, "epochs": {}, "cpu_seconds": {}, "parameters": {}}
    goals = []
    for kind in MODELS:
        runs = []
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            model = build_model(kind, table_rows)
            started = time.process_time()
            epoch = fit(model, parts["train"], parts["valid"], epochs)
            result["cpu_seconds"].setdefault(kind, []).append(round(time.process_time() - started, 1))
            result["epochs"].setdefault(kind, []).append(epoch)
            runs.append(score(model, parts["test"]))
        result["parameters"][kind] = model.count_params()
        by_task = dict(zip(TASKS, zip(*runs, strict=True), strict=True))
        result["test_auc"][kind] = {
            task: {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
            for task, values in by_task.items()
        }
        if kind == "mmoe":
            for task, values in by_task.items():
                goals.append(goal(f"test AUC of MMoE, {task}", values, ">=", _GOALS[task]))
    return {**report("census", goals, "keras", "tensorflow", "numpy"), **result}


def read(folder: Path) -> tuple[dict[str, Rows], int]:
    """Train, valid and test rows, and how many rows the table of embeddings needs.

    Vocabularies, means and deviations come from the train rows. Each feature has its own range of the table, that
    range's first row for values that no train row has. Numeric columns are compressed by log1p, being counts with long
    tails, and standardised.
    """
    with gzip.open(folder / "census-income.test.gz", "rt") as lines:
        table = np.array([[value.strip() for value in row] for row in csv.reader(lines)])
    with (folder / "split.csv").open() as lines:
        split = list(csv.DictReader(lines))
    if len(split) != len(table):
        raise ValueError(f"split.csv has {len(split)} rows, census-income.test.gz {len(table)}; expected as many")
    part = np.array([row["split"] for row in split])
    labels = np.array([[row[task] for task in TASKS] for row in split], np.float32)
    train = part == "train"

    numeric = np.log1p(table[:, _NUMERIC].astype(np.float32))
    numeric = (numeric - numeric[train].mean(axis=0)) / numeric[train].std(axis=0).clip(min=1e-6)
    ids, table_rows = [], 0
    for column in sorted(set(range(table.shape[1])) - {*_NUMERIC, *_LEFT_OUT}):
        vocabulary = np.unique(table[train, column])
        place = np.searchsorted(vocabulary, table[:, column]).clip(max=len(vocabulary) - 1)
        known = vocabulary[place] == table[:, column]
        ids.append(table_rows + np.where(known, place + 1, 0))
        table_rows += len(vocabulary) + 1
    stacked = np.stack(ids, axis=1).astype(np.int32)
    parts = {
        name: Rows(stacked[part == name], numeric[part == name], labels[part == name])
        for name in ("train", "valid", "test")
    }
    return parts, table_rows


class _SmallEmbedding(layers.Embedding):
    """An embedding of few rows: its gradient is added up once, into an array as large as the table.

    Without that, Keras' Adam on TensorFlow adds up the gradient of the looked-up rows once for each moment.
    """

    def call(self, inputs):
        return ops.take(ops.multiply(self.embeddings, 1.0), inputs, axis=0)


def build_model(kind: str, table_rows: int, ids: int = 32, numeric: int = 7) -> keras.Model:
    """From `ids` (B, 32) and `numeric` (B, 7) to logits (B, 2): embeddings of 8, the layer to compare, towers of 32.

    All features share one table, each having its own range of it: one look-up in place of 32.
    """
    inputs = [keras.Input((ids,), dtype="int32", name="ids"), keras.Input((numeric,), name="numeric")]
    vectors = layers.Reshape((ids * 8,))(_SmallEmbedding(table_rows, 8, name="embedding")(inputs[0]))
    x = MODELS[kind]()(layers.Concatenate()([vectors, inputs[1]]))
    x = GroupedDense(32, activation="relu", name="towers")(x)
    x = GroupedDense(1, kernel_initializer="lecun_uniform", name="logits")(x)
    return keras.Model(inputs, layers.Reshape((len(TASKS),))(x), name=kind)


# The bottom has the size of the eight experts together; PLE has eight a level.
MODELS: dict[str, Callable[[], layers.Layer]] = {
    "shared_bottom": lambda: MultiGateMixtureOfExperts(len(TASKS), experts=1, expert_units=(512, 32)),
    "mmoe": lambda: MultiGateMixtureOfExperts(len(TASKS), experts=8, expert_units=(64, 32)),
    "ple": lambda: ProgressiveLayeredExtraction(
        len(TASKS), task_experts=3, shared_experts=2, expert_units=(64, 32), levels=2
    ),
}


def compile_model(model: keras.Model, jit_compile: bool = False) -> None:
    """Adam and the mean of the tasks' binary cross-entropies."""
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=jit_compile,
        steps_per_execution=10,
    )


class _BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best mean AUC on `rows`, and stops three epochs after it."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self.best, self.epoch, self.weights = -np.inf, 0, None

    def on_epoch_end(self, epoch, logs=None):
        value = float(np.mean(score(self.model, self.rows)))
        if value > self.best:
            self.best, self.epoch, self.weights = value, epoch + 1, self.model.get_weights()
        elif epoch + 1 >= self.epoch + 3:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.model.set_weights(self.weights)


def fit(model: keras.Model, train: Rows, valid: Rows, epochs: int = EPOCHS) -> int:
    """Trains `model`, which has the weights of the best epoch afterwards; returns that epoch, from 1."""
    compile_model(model)
    best = _BestEpoch(valid)
    model.fit([train.ids, train.numeric], train.labels, batch_size=BATCH, epochs=epochs, callbacks=[best], verbose=0)
    return best.epoch


def score(model: keras.Model, rows: Rows) -> Sequence[float]:
    """Exact AUC of each task."""
    logits = model.predict([rows.ids, rows.numeric], batch_size=8192, verbose=0)
    return [auc(rows.labels[:, k], logits[:, k]) for k in range(len(TASKS))]
