"""Synthetic examples whose labels can be learned."""

from pathlib import Path

import numpy as np

from beam_transforms.schema import PADDING_ID, WINDOW_MS, RankingSchema

SPAN_MS = 3_600_000


def example_columns(schema: RankingSchema, span: int, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Feature name -> (rows,) + shape. A label depends on `user_author_counts` alone, whose entries are 0 to 4."""
    columns = {}
    for feature in schema.features:
        shape = (rows, *feature.shape)
        columns[feature.name] = (
            rng.integers(0, 50, shape) if feature.dtype == "int64" else rng.poisson(2, shape).astype(np.float32)
        )
    columns["timestamp_ms"] = np.sort(span * SPAN_MS + rng.integers(0, SPAN_MS, rows))
    columns["entered_authors"][:, 0] = PADDING_ID
    columns["statistic_mask"] = np.ones((rows, schema.sequence_length), np.float32)
    columns["statistic_sequence"] = _room_windows(schema, columns, rng)
    columns["user_author_counts"] = rng.integers(0, 5, columns["user_author_counts"].shape).astype(np.float32)
    signal = columns["user_author_counts"][:, : len(schema.tasks)]
    columns["label"] = (rng.random(signal.shape) < 1 / (1 + np.exp(4 - 1.5 * signal))).astype(np.float32)
    columns["label_mask"] = np.ones(signal.shape, np.float32)
    columns["label_weight"] = np.ones(signal.shape, np.float32)
    return columns


def write_examples(path: Path, columns: dict[str, np.ndarray], rows: slice) -> None:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {name: values[rows].reshape(len(values[rows]), -1) for name, values in columns.items()}
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in range(len(flat["user_id"])):
            features = {}
            for name, values in flat.items():
                if values.dtype == np.int64:
                    features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values[row]))
                else:
                    features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values[row]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def _room_windows(schema: RankingSchema, columns: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """One sequence a room and window: counts that rise or fall steadily, which a forecaster can learn."""
    keys = np.stack([columns["live_id"], columns["timestamp_ms"] // WINDOW_MS], axis=1)
    rooms, index = np.unique(keys, axis=0, return_inverse=True)
    size = (len(rooms), 1, len(schema.metrics))
    level, slope = rng.uniform(20, 40, size), rng.uniform(-1.5, 1.5, size)
    steps = np.arange(schema.sequence_length)[None, :, None]
    noise = rng.normal(0, 0.3, (len(rooms), schema.sequence_length, len(schema.metrics)))
    return np.maximum(level + slope * steps + noise, 0).astype(np.float32)[index.reshape(-1)]
