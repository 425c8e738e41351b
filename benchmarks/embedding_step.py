"""Whether a training step grows with its embedding table: CPU time with 10,000,000 rows against 100,000."""

import os
import statistics
import time
from typing import Any

import click

from benchmarks.harness import goal, report

_SIZES = (100_000, 10_000_000)
_WIDTH, _BATCH, _IDS = 16, 1024, 8

OPTIONS: list[click.Option] = [
    click.Option(["--rounds"], type=click.IntRange(1), default=9, show_default=True, help="Measurements of each size."),
    click.Option(["--adam/--no-adam"], default=True, show_default=True, help="Measure Keras's own Adam as well."),
]


def run(rounds: int = 9, adam: bool = True) -> dict[str, Any]:
    """Steps of both optimizers with both sizes in turn, one thread; Keras's Adam beside them, without a goal."""
    goals, medians = _measured(rounds, adam)
    return {**report("embedding-step", goals, "keras", "tensorflow"), "cpu_ms_per_step": medians}


def goals(rounds: int = 9) -> list[dict[str, Any]]:
    """The goals alone."""
    return _measured(rounds, adam=False)[0]


def _measured(rounds: int, adam: bool) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    from keras_models.optimizers.lazy_adam import LazyAdam
    from keras_models.optimizers.row_wise_adagrad import RowWiseAdagrad

    if keras.backend.backend() != "tensorflow":
        raise click.ClickException("sparse gradients need KERAS_BACKEND=tensorflow")
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow has started already, as within `foresight bench layers`, which sets one thread
        pass

    found = []
    medians: dict[str, dict[str, float]] = {}
    for optimizer in (LazyAdam, RowWiseAdagrad, *([keras.optimizers.Adam] if adam else [])):
        steps = 40 if optimizer is not keras.optimizers.Adam else 3
        samples = _growth(optimizer, rounds if steps == 40 else 3, steps)
        medians[optimizer.__name__] = {
            str(rows): statistics.median(values)
            for rows, values in zip(_SIZES, zip(*samples, strict=True), strict=True)
        }
        if optimizer is not keras.optimizers.Adam:
            name = f"{optimizer.__name__}: CPU time of a step with 10,000,000 rows / with 100,000"
            found.append(goal(name, [large / small for small, large in samples], "<=", 1.3))
    return found, medians


def _growth(optimizer, rounds: int, steps: int) -> list[tuple[float, float]]:
    """CPU milliseconds of a step with each size, one pair a round."""
    import numpy as np
    import tensorflow as tf

    generator = np.random.default_rng(0)
    batches = [
        (generator.integers(0, 2**62, (_BATCH, _IDS)), generator.random((_BATCH, 1), "float32").round())
        for _ in range(steps)
    ]
    data = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    models = [_model(rows, optimizer(1e-3)) for rows in _SIZES]

    def milliseconds(model) -> float:
        iterators = [iter(one) for one in data]
        begin = time.process_time()
        for iterator in iterators:
            model.train_function(iterator)
        return (time.process_time() - begin) / steps * 1e3

    for model in models:
        milliseconds(model)
    return [(milliseconds(models[0]), milliseconds(models[1])) for _ in range(rounds)]


def _model(rows: int, optimizer):
    """A ranker's smallest form: looked-up vectors, one hidden layer, one task, compiled as `fit` does."""
    import keras

    from keras_models.layers.hashed_embedding import HashedEmbedding

    ids = keras.Input((_IDS,), dtype="int64")
    vectors = keras.layers.Flatten()(HashedEmbedding(rows, _WIDTH, padding_id=None)(ids))
    hidden = keras.layers.Dense(64, "relu")(vectors)
    model = keras.Model(ids, keras.layers.Dense(1, "sigmoid")(hidden))
    model.compile(optimizer, "binary_crossentropy", jit_compile=False)
    model.make_train_function()
    return model
