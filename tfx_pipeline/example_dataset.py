"""Examples as tf.data, parsed by the schema."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from beam_transforms.schema import RankingSchema


def example_files(folder: Path) -> list[str]:
    """The TFRecord files of one split, in name order.

    Raises:
        ValueError: If there is none.
    """
    files = sorted(str(path) for path in Path(folder).glob("*.tfrecord"))
    if not files:
        raise ValueError(f"no *.tfrecord in {folder}")
    return files


def parse(records: tf.Tensor, schema: RankingSchema) -> dict[str, tf.Tensor]:
    """Serialized tf.Examples (B,) as one tensor a feature, each (B,) + the feature's shape."""
    specification = {
        feature.name: tf.io.FixedLenFeature(feature.shape, tf.as_dtype(feature.dtype)) for feature in schema.features
    }
    return tf.io.parse_example(records, specification)


def example_batches(files: Sequence[str], schema: RankingSchema, batch_size: int) -> tf.data.Dataset:
    """Batches of parsed examples, in the order of the files; the last one may be smaller."""
    records = tf.data.TFRecordDataset(list(files)).batch(batch_size)
    return records.map(lambda batch: parse(batch, schema), num_parallel_calls=2).prefetch(2)


def training_batches(
    files: Sequence[str], schema: RankingSchema, batch_size: int, shuffle_examples: int, seed: int
) -> tf.data.Dataset:
    """Shuffled batches of (inputs, labels, weights) for `Model.fit`; labels and weights are dicts by task, (B,) each.

    The order is another one in each epoch and the same in each run. Labels that are masked have weight 0.

    Args:
        files: TFRecord files; they are read interleaved, so that a batch mixes them.
        schema: What an example is.
        batch_size: Examples a batch; the last one may be smaller.
        shuffle_examples: Size of the buffer that batches are drawn from.
        seed: Of the order.
    """

    def split(batch: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        example = parse(batch, schema)
        weight = example["label_mask"] * example["label_weight"]
        labels = {name: example["label"][:, task] for task, name in enumerate(schema.task_names)}
        weights = {name: weight[:, task] for task, name in enumerate(schema.task_names)}
        return {feature.name: example[feature.name] for feature in schema.inputs}, labels, weights

    paths = tf.data.Dataset.from_tensor_slices(list(files)).shuffle(len(files), seed=seed)
    records = paths.interleave(tf.data.TFRecordDataset, cycle_length=min(len(files), 16), block_length=16)
    records = records.shuffle(shuffle_examples, seed=seed + 1).batch(batch_size)
    return records.map(split, num_parallel_calls=2).prefetch(2)
