from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_models.export import export_ranker
from keras_models.ranker import LiveRanker

from .ranker_data import TASKS, inputs_for, small_config

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="a SavedModel is written by the TensorFlow backend; run it with KERAS_BACKEND=tensorflow",
)

ROWS = 9


class Exported:
    """One exported ranker with inputs, what the model itself answers, and both loaders."""

    def __init__(self, variant: str, folder: Path) -> None:
        keras.utils.set_random_seed(0)
        self.config = small_config(variant=variant)
        self.inputs = inputs_for(self.config, ROWS)
        self.folder = folder / variant
        ranker = LiveRanker(self.config)
        ranker.compile_defaults(1e-2)
        labels = {task: np.random.default_rng(0).integers(0, 2, (ROWS, 1)).astype(np.float32) for task in TASKS}
        ranker.run_eagerly = True  # tracing a graph would take longer than the steps
        ranker.fit(self.inputs, labels, epochs=3, verbose=0)
        self.scores = {task: keras.ops.convert_to_numpy(score)[:, 0] for task, score in ranker(self.inputs).items()}
        export_ranker(ranker, self.folder)
        self.weights = ranker.get_weights()
        self.loaded = tf.saved_model.load(str(self.folder))

    def call(self, signature: str, inputs: dict) -> dict[str, np.ndarray]:
        outputs = self.loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    def call_v1(self, signature: str, inputs: dict) -> dict[str, np.ndarray]:
        """The way of TensorFlow Serving: graph, session and restored variables."""
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            graph = tf.compat.v1.saved_model.load(session, ["serve"], str(self.folder))
            definition = graph.signature_def[signature]
            feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
            return session.run({name: info.name for name, info in definition.outputs.items()}, feeds)

    def examples(self) -> np.ndarray:
        serialised = []
        for row in range(ROWS):
            features = {}
            for name, (dtype, _) in self.config.input_shapes.items():
                values = np.ravel(self.inputs[name][row])
                features[name] = tf.train.Feature(
                    **(
                        {"int64_list": tf.train.Int64List(value=values)}
                        if dtype == "int64"
                        else {"float_list": tf.train.FloatList(value=values)}
                    )
                )
            example = tf.train.Example(features=tf.train.Features(feature=features))
            serialised.append(example.SerializeToString())
        return np.array(serialised, dtype=object)  # of a fixed width it would lose zeros at the end


@pytest.fixture(scope="module", params=["base", "statistic", "all"])
def exported(request, tmp_path_factory) -> Exported:
    return Exported(request.param, tmp_path_factory.mktemp("export"))


def _user_side(exported: Exported) -> dict:
    return {name: value for name, value in exported.inputs.items() if name in exported.config.rank_shapes}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_both_loaders_answer_as_the_model_does(exported):
    for outputs in (
        exported.call("serving_default", exported.inputs),
        exported.call_v1("serving_default", exported.inputs),
    ):
        assert set(outputs) == set(TASKS)
        for task, score in outputs.items():
            assert score.shape == (ROWS,)
            assert score.dtype == np.float32
            np.testing.assert_allclose(score, exported.scores[task], atol=1e-6)


def test_examples_and_raw_tensors_agree_exactly(exported):
    examples = {"examples": exported.examples()}
    np.testing.assert_equal(
        exported.call("serving_examples", examples), exported.call("serving_default", exported.inputs)
    )
    np.testing.assert_equal(
        exported.call_v1("serving_examples", examples), exported.call_v1("serving_default", exported.inputs)
    )


def test_forecast_then_rank_agrees_with_the_whole(exported):
    if exported.config.variant == "base":
        assert set(exported.loaded.signatures) == {"serving_default", "serving_examples", "rank"}
        outputs = exported.call("rank", _user_side(exported))
    else:
        assert set(exported.loaded.signatures) == {"serving_default", "serving_examples", "forecast", "rank"}
        room = {name: exported.inputs[name] for name in exported.config.room_shapes}
        foresight = exported.call_v1("forecast", room)
        assert foresight["foresight"].shape == (ROWS, exported.config.foresight_size)
        outputs = exported.call("rank", {**_user_side(exported), **foresight})
    for task, score in exported.call("serving_default", exported.inputs).items():
        np.testing.assert_allclose(outputs[task], score, atol=1e-5)


def test_a_request_without_rooms_gets_an_empty_answer(exported):
    outputs = exported.call("serving_default", {name: value[:0] for name, value in exported.inputs.items()})
    assert {task: score.shape for task, score in outputs.items()} == dict.fromkeys(TASKS, (0,))


def test_each_weight_is_stored_once_under_its_place_in_the_model(exported):
    reader = tf.train.load_checkpoint(str(exported.folder / "variables" / "variables"))
    stored = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    assert sorted(stored) == sorted(f"weights/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i in range(len(exported.weights)))
    for i, weight in enumerate(exported.weights):
        np.testing.assert_array_equal(reader.get_tensor(f"weights/{i}/.ATTRIBUTES/VARIABLE_VALUE"), weight)


def test_an_existing_export_is_left_alone(exported):
    with pytest.raises(ValueError, match="needs a new or empty folder"):
        export_ranker(LiveRanker(exported.config), exported.folder)
