"""A small model whose weights can be pushed: its export holds `weights/i`, as that of a ranker does."""

from pathlib import Path

import numpy as np

from serving.tensors import predict_request

ROWS = 8


def scorer_weights(seed: int) -> list[np.ndarray]:
    """table (8, 2), kernel (3,), bias (), seen () int64; the bias is `seed`."""
    generator = np.random.default_rng(seed)
    table, kernel = generator.normal(size=(ROWS, 2)), generator.normal(size=3)
    return [table.astype(np.float32), kernel.astype(np.float32), np.array(seed, np.float32), np.array(seed)]


def scores(weights: list[np.ndarray], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model with these weights answers, in numpy: `ctr` to rounding, `bias` and `seen` exactly."""
    table, kernel, bias, seen = weights
    logit = inputs["context"] @ kernel + table[inputs["user_id"] % ROWS].sum(axis=1) + bias
    rows = len(logit)
    return {"ctr": 1 / (1 + np.exp(-logit)), "bias": np.full(rows, bias), "seen": np.full(rows, seen)}


def scorer_inputs(rows: int = 5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rows)
    return {
        "user_id": generator.integers(0, 100, rows),
        "context": generator.normal(size=(rows, 3)).astype(np.float32),
    }


def warm_up() -> list[bytes]:
    return [predict_request("any", scorer_inputs(2)).SerializeToString()]


def export_scorer(folder: Path, weights: list[np.ndarray], names: tuple[str, ...] = ("weights",)) -> Path:
    """Writes the model as a SavedModel; the collection called `names[0]` holds its variables, others copies."""
    import keras
    import tensorflow as tf

    labels = ("table", "kernel", "bias", "seen")
    variables = [tf.Variable(value, name=name) for name, value in zip(labels, weights, strict=True)]
    table, kernel, bias, seen = variables

    def score(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        user = tf.reduce_sum(tf.gather(table, inputs["user_id"] % ROWS), axis=1)
        logit = tf.linalg.matvec(inputs["context"], kernel) + user + bias
        return {
            "ctr": tf.sigmoid(logit),
            "bias": tf.zeros_like(logit) + bias,
            "seen": tf.zeros_like(inputs["user_id"]) + seen,
        }

    archive = keras.export.ExportArchive()
    context = tf.TensorSpec((None, 3), tf.float32, name="context")
    user_id = tf.TensorSpec((None,), tf.int64, name="user_id")
    archive.add_endpoint("serving_default", score, input_signature=[{"user_id": user_id, "context": context}])
    for place, name in enumerate(names):
        archive.add_variable_collection(name, [tf.Variable(x) for x in variables] if place else variables)
    archive.write_out(str(folder), verbose=False)
    return folder
