"""A ranker of your own gains statistic foresight: the marked lines are all that is added.

    .venv/bin/python examples/embed_in_your_ranker.py

It runs on any Keras backend: set KERAS_BACKEND to tensorflow, jax or torch.
"""

import keras
import numpy as np

from keras_models.layers.running_normalization import RunningNormalization  # added
from keras_models.metrics import auc
from keras_models.statistic_forecaster import StatisticForecaster  # added

USERS, AUTHORS, STEPS, METRICS, HORIZON = 300, 100, 19, 3, 3


def build_ranker(foresight: bool) -> keras.Model:
    """Your ranker: a click probability from ids and the room's latest counts."""
    inputs = {
        "user_id": keras.Input((), name="user_id", dtype="int32"),
        "author_id": keras.Input((), name="author_id", dtype="int32"),
        "statistic_sequence": keras.Input((STEPS, METRICS), name="statistic_sequence"),
        "statistic_mask": keras.Input((STEPS,), name="statistic_mask"),
    }
    latest = keras.ops.log1p(inputs["statistic_sequence"][:, -1])
    user = keras.layers.Embedding(USERS, 8)(inputs["user_id"])
    author = keras.layers.Embedding(AUTHORS, 8)(inputs["author_id"])
    features = [user, author, keras.layers.Dot(axes=1)([user, author]), latest]
    if foresight:
        room = {name: inputs[name] for name in ("statistic_sequence", "statistic_mask")}  # added
        forecast, encoding = StatisticForecaster(HORIZON, model_width=16, layers=1)(room)  # added
        features.append(RunningNormalization()(keras.layers.Flatten()(forecast)))  # added
        features.append(keras.layers.Flatten()(encoding))  # added
    hidden = keras.layers.Dense(64, activation="relu")(keras.layers.Concatenate()(features))
    hidden = keras.layers.Dense(32, activation="relu")(hidden)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))


def train_and_test(foresight: bool, rows: int = 12_000, epochs: int = 5) -> float:
    """Test AUC of the ranker; the forecaster's loss is added to yours in `fit`, and no gradient of yours reaches it."""
    keras.utils.set_random_seed(0)
    ranker = build_ranker(foresight)
    ranker.compile(keras.optimizers.Adam(1e-2), loss="binary_crossentropy")
    (train, train_clicks), (test, test_clicks) = impressions(rows, seed=1), impressions(4_000, seed=2)
    ranker.fit(train, train_clicks, batch_size=256, epochs=epochs, verbose=0)
    return auc(test_clicks, ranker.predict(test, batch_size=512, verbose=0)[:, 0])


def impressions(rows: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rooms whose counts swing with a period of four minutes; users click for what the next 90 seconds will show."""
    fixed = np.random.default_rng(0)  # the same in training and test
    activity, popularity = fixed.normal(size=USERS), fixed.normal(size=AUTHORS)
    generator = np.random.default_rng(seed)
    user, author = generator.integers(0, USERS, rows), generator.integers(0, AUTHORS, rows)
    level = generator.gamma(2.0, 15.0, (rows, 1, METRICS))
    phase = generator.uniform(0, 2 * np.pi, (rows, 1, METRICS))
    swing = np.sin(2 * np.pi * np.arange(STEPS + HORIZON)[:, None] / 8 + phase)
    counts = generator.poisson(level * (1 + 0.8 * swing))[:, :STEPS]
    logit = 2.0 * swing[:, STEPS:, 0].mean(axis=1) + 0.7 * activity[user] + 0.7 * popularity[author] - 0.5
    features = {
        "user_id": user.astype(np.int32),
        "author_id": author.astype(np.int32),
        "statistic_sequence": counts.astype(np.float32),
        "statistic_mask": np.ones((rows, STEPS), np.float32),
    }
    return features, (generator.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)


if __name__ == "__main__":
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    print(f"test AUC without foresight: {train_and_test(foresight=False):.3f}")
    print(f"test AUC with foresight:    {train_and_test(foresight=True):.3f}")
