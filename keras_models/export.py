"""Export of a ranker as a SavedModel for TensorFlow Serving."""

from pathlib import Path

import keras
import tensorflow as tf

from keras_models.ranker import LiveRanker


def export_ranker(model: LiveRanker, path: str | Path) -> None:
    """Writes `model` as a SavedModel with these signatures, B the number of (user, room) pairs:

    - `serving_default`: `config.input_shapes` by name -> one (B,) float32 probability a task, by task.
    - `serving_examples`: `examples` (B,), serialised tf.Examples with the same features -> the same.
    - `forecast`: `config.room_shapes` by name, the room's sequences -> `foresight` (B, F). Not in variant "base".
    - `rank`: `config.rank_shapes` by name, `foresight` among them -> the same as `serving_default`.

    `ExportArchive` is used because what `tf.saved_model.save` makes of a Keras 3 model fails in the C++ loader of
    TensorFlow Serving. The model isn't tracked, which would store each variable twice; its weights are a collection of
    the archive instead, so that `weights/i` in the variables bundle is `model.weights[i]` in every export. That is what
    `serving.checkpoint_publisher` relies on when it writes other weights under the same graph.

    Args:
        model: The ranker.
        path: Folder to write; it mustn't hold anything yet.

    Raises:
        ValueError: If `path` exists and isn't an empty folder.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"the export needs a new or empty folder, got {path}")
    config = model.config
    inputs = config.input_shapes
    example_features = {name: tf.io.FixedLenFeature(shape, dtype) for name, (dtype, shape) in inputs.items()}

    def score(inputs):
        return _by_task(model(inputs, training=False))

    def score_examples(examples):
        return score(tf.io.parse_example(examples, example_features))

    archive = keras.export.ExportArchive()
    archive.add_endpoint("serving_default", score, [_specs(inputs)])
    archive.add_endpoint("serving_examples", score_examples, [tf.TensorSpec((None,), tf.string, name="examples")])
    if config.foresight_size:
        forecast_specs = [_specs(config.room_shapes)]
        archive.add_endpoint("forecast", lambda inputs: model.forecast(inputs, training=False), forecast_specs)
    archive.add_endpoint("rank", lambda inputs: _by_task(model.rank(inputs)), [_specs(config.rank_shapes)])
    # TensorFlow's variables, not Keras's around them: the endpoints hold the same objects, and each is stored once.
    archive.add_variable_collection("weights", [weight.value for weight in model.weights])
    archive.write_out(str(path), verbose=False)


def _specs(shapes: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec((None, *shape), dtype, name=name) for name, (dtype, shape) in shapes.items()}


def _by_task(scores):
    return {task: tf.squeeze(score, axis=-1) for task, score in scores.items()}
