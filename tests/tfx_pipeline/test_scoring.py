from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.tfx_pipeline.synthetic_examples import example_columns, write_examples
from tfx_pipeline.scoring import ExportedModel, ModelUnusableError, score_models

ROWS = 30


def export(path: Path, inputs: dict[str, tf.TensorSpec], tasks: tuple[str, ...], scale: float = 1.0) -> Path:
    """A model that scores every task with `scale` x the first entry of `user_counts`."""

    class Model(tf.Module):
        @tf.function(input_signature=[inputs])
        def serve(self, features):
            return dict.fromkeys(tasks, scale * features["user_counts"][:, 0])

    model = Model()
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.serve})
    return path


@pytest.fixture
def inputs(small_schema) -> dict[str, tf.TensorSpec]:
    return {
        feature.name: tf.TensorSpec((None, *feature.shape), feature.dtype, name=feature.name)
        for feature in small_schema.inputs
    }


def test_models_are_scored_on_the_same_rows(tmp_path, inputs, small_schema):
    tasks = small_schema.task_names
    columns = example_columns(small_schema, 1, ROWS, np.random.default_rng(0))
    columns["label_mask"][:5, 1] = 0
    write_examples(tmp_path / "examples.tfrecord", columns, slice(0, ROWS))
    models = {
        "candidate": ExportedModel(export(tmp_path / "a", inputs, tasks), small_schema),
        "baseline": ExportedModel(export(tmp_path / "b", inputs, tasks, scale=-1.0), small_schema),
    }
    predictions = score_models(models, [str(tmp_path / "examples.tfrecord")], small_schema, batch_size=8)
    assert predictions.rows == ROWS
    np.testing.assert_array_equal(predictions.user_id, columns["user_id"])
    np.testing.assert_array_equal(predictions.timestamp_ms, columns["timestamp_ms"])
    for k, task in enumerate(tasks):
        np.testing.assert_array_equal(predictions.scores["candidate"][task], columns["user_counts"][:, 0])
        np.testing.assert_array_equal(predictions.scores["baseline"][task], -columns["user_counts"][:, 0])
        np.testing.assert_array_equal(predictions.labels[task], columns["label"][:, k])
    np.testing.assert_array_equal(predictions.masks[tasks[1]], np.arange(ROWS) >= 5)


def test_a_model_may_leave_inputs_out(tmp_path, inputs, small_schema):
    path = export(tmp_path / "model", {"user_counts": inputs["user_counts"]}, small_schema.task_names)
    ExportedModel(path, small_schema)


def test_another_shape_is_named(tmp_path, inputs, small_schema):
    inputs["user_counts"] = tf.TensorSpec((None, 99), tf.float32, name="user_counts")
    with pytest.raises(
        ModelUnusableError, match=r"takes 'user_counts' as \(None, 99\) float32; in schema 'live' it is"
    ):
        ExportedModel(export(tmp_path / "model", inputs, small_schema.task_names), small_schema)


def test_an_unknown_input_is_named(tmp_path, inputs, small_schema):
    inputs["weather"] = tf.TensorSpec((None,), tf.float32, name="weather")
    with pytest.raises(ModelUnusableError, match="asks for the input 'weather'"):
        ExportedModel(export(tmp_path / "model", inputs, small_schema.task_names), small_schema)


def test_a_missing_task_is_named(tmp_path, inputs, small_schema):
    with pytest.raises(ModelUnusableError, match=r"gives no score for the tasks \['ltr'\]"):
        ExportedModel(export(tmp_path / "model", inputs, small_schema.task_names[:2]), small_schema)


def test_a_folder_that_holds_no_model_is_named(tmp_path, small_schema):
    with pytest.raises(ModelUnusableError, match="doesn't load as a SavedModel"):
        ExportedModel(tmp_path, small_schema)


def test_no_example_is_an_error(tmp_path, inputs, small_schema):
    path = export(tmp_path / "model", inputs, small_schema.task_names)
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    with pytest.raises(ValueError, match="no example to evaluate on"):
        score_models(
            {"candidate": ExportedModel(path, small_schema)}, [str(tmp_path / "empty.tfrecord")], small_schema, 8
        )
