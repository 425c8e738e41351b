"""A TFRS ranker of your own, on Keras 2, gains statistic foresight through a SavedModel of a trained forecaster.

    .venv/bin/python examples/embed_in_your_tfrs_ranker.py

TFRS needs Keras 2 (tf_keras), our forecaster is Keras 3: they meet in a SavedModel, which knows no Keras.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # TFRS: before TensorFlow is imported
os.environ["KERAS_BACKEND"] = "tensorflow"  # a SavedModel is TensorFlow's

import tempfile

import keras
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras
from embed_in_your_ranker import AUTHORS, HORIZON, METRICS, STEPS, USERS, impressions

from keras_models.metrics import auc
from keras_models.statistic_forecaster import StatisticForecaster

ROOM = {"statistic_sequence": (STEPS, METRICS), "statistic_mask": (STEPS,)}


class Ranker(tfrs.Model):
    """Your ranker: a click probability from ids and the room's latest counts."""

    def __init__(self, foresight: str | None = None) -> None:
        super().__init__()
        self.user_embedding = tf_keras.layers.Embedding(USERS, 8)
        self.author_embedding = tf_keras.layers.Embedding(AUTHORS, 8)
        self.network = tf_keras.Sequential(
            [
                tf_keras.layers.Dense(64, activation="relu"),
                tf_keras.layers.Dense(32, activation="relu"),
                tf_keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        self.task = tfrs.tasks.Ranking(loss=tf_keras.losses.BinaryCrossentropy())
        self.foresight = tf.saved_model.load(foresight) if foresight else None  # added

    def call(self, features):
        user, author = self.user_embedding(features["user_id"]), self.author_embedding(features["author_id"])
        affinity = tf.reduce_sum(user * author, axis=1, keepdims=True)
        parts = [user, author, affinity, tf.math.log1p(features["statistic_sequence"][:, -1])]
        if self.foresight:
            seen = self.foresight.signatures["forecast"](**{name: features[name] for name in ROOM})  # added
            counts, encoding = tf.nn.relu(seen["forecast"]), seen["encoding"]  # added
            parts.append(tf.math.log1p(tf.reshape(counts, (-1, HORIZON * METRICS))))  # added
            parts.append(tf.reshape(encoding, (-1, METRICS * encoding.shape[-1])))  # added
        return self.network(tf.concat(parts, axis=1))

    def compute_loss(self, inputs, training=False):
        features, clicks = inputs
        return self.task(labels=clicks[:, None], predictions=self(features, training=training))


def export_forecaster(forecaster: StatisticForecaster, path: str) -> None:
    """Writes a SavedModel with one signature, `forecast`; not through tf.saved_model.save, which serving can't load."""
    archive = keras.export.ExportArchive()
    archive.add_endpoint(
        "forecast",
        lambda room: dict(zip(("forecast", "encoding"), forecaster(room, training=False), strict=True)),
        [{name: tf.TensorSpec((None, *shape), tf.float32, name=name) for name, shape in ROOM.items()}],
    )
    archive.add_variable_collection("weights", [weight.value for weight in forecaster.weights])
    archive.write_out(path, verbose=False)


def train_forecaster(rooms: dict, epochs: int = 5) -> StatisticForecaster:
    """Needs no clicks: any rooms' sequences will do, and a schedule of its own."""
    keras.utils.set_random_seed(0)
    forecaster = StatisticForecaster(HORIZON, model_width=16, layers=1)
    forecaster.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    forecaster.fit({name: rooms[name] for name in ROOM}, batch_size=256, epochs=epochs, verbose=0)
    return forecaster


def train_and_test(foresight: str | None, rows: int = 12_000, epochs: int = 5) -> tuple[Ranker, float]:
    """A trained ranker and its test AUC."""
    tf_keras.utils.set_random_seed(0)
    ranker = Ranker(foresight)
    ranker.compile(tf_keras.optimizers.Adam(1e-2))
    test, clicks = impressions(4_000, seed=2)
    examples = tf.data.Dataset.from_tensor_slices(impressions(rows, seed=1)).shuffle(rows, seed=0).batch(256)
    ranker.fit(examples, epochs=epochs, verbose=0)
    return ranker, auc(clicks, ranker.predict(test, batch_size=512, verbose=0)[:, 0])


if __name__ == "__main__":
    print(f"TFRS on tf_keras {tf_keras.__version__}, forecaster on Keras {keras.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        export_forecaster(train_forecaster(impressions(12_000, seed=1)[0]), folder)
        print(f"test AUC without foresight: {train_and_test(None)[1]:.3f}")
        print(f"test AUC with foresight:    {train_and_test(folder)[1]:.3f}")
