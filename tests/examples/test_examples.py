"""The examples do what the documentation says, on whichever backend KERAS_BACKEND names."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def _source(name: str) -> str:
    return (EXAMPLES / f"{name}.py").read_text()


def _output(name: str) -> str:
    """What the example prints when it is run as a script."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout


def _areas(output: str) -> tuple[float, float]:
    without, with_foresight = re.findall(r"^test AUC with(?:out)? foresight: +(0\.\d+)$", output, re.MULTILINE)
    return float(without), float(with_foresight)


@pytest.mark.parametrize("name", ["embed_in_your_ranker", "embed_in_your_tfrs_ranker"])
def test_few_lines_are_added(name):
    assert _source(name).count("# added\n") <= 6


def test_foresight_helps_the_ranker():
    """A short run in this process; the whole one is slow."""
    spec = importlib.util.spec_from_file_location("embed_in_your_ranker", EXAMPLES / "embed_in_your_ranker.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    without, with_foresight = (example.train_and_test(foresight, rows=6_000, epochs=4) for foresight in (False, True))
    assert without > 0.55
    assert with_foresight > without + 0.05


@pytest.mark.slow
def test_ranker_as_a_script():
    output = _output("embed_in_your_ranker")
    assert f"on {keras.backend.backend()}\n" in output
    without, with_foresight = _areas(output)
    assert 0.6 < without < 0.73
    assert with_foresight > 0.77


@pytest.mark.slow
def test_tfrs_ranker_as_a_script():
    if importlib.util.find_spec("tensorflow_recommenders") is None:
        pytest.skip("tensorflow_recommenders isn't installed here; run `make test-slow`")
    without, with_foresight = _areas(_output("embed_in_your_tfrs_ranker"))
    assert 0.6 < without < 0.73
    assert with_foresight > 0.77


_SERVE = """
import sys
import embed_in_your_tfrs_ranker as example, numpy as np, tensorflow as tf

forecaster, served = sys.argv[1:]
example.export_forecaster(example.train_forecaster(example.impressions(500, seed=1)[0], epochs=1), forecaster)
ranker, _ = example.train_and_test(forecaster, rows=500, epochs=1)
assert not any("forecaster" in weight.name for weight in ranker.trainable_variables)
inputs, _ = example.impressions(5, seed=3)
want = ranker.predict(inputs, verbose=0)
specs = {name: tf.TensorSpec((None, *value.shape[1:]), value.dtype, name=name) for name, value in inputs.items()}
score = tf.function(lambda features: {"score": ranker(features)}, input_signature=[specs])
tf.saved_model.save(ranker, served, signatures={"serving_default": score.get_concrete_function()})
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    signature = tf.compat.v1.saved_model.load(session, ["serve"], served).signature_def["serving_default"]
    feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
    np.testing.assert_allclose(session.run(signature.outputs["score"].name, feeds), want, atol=1e-6)
"""


@pytest.mark.slow
def test_tfrs_ranker_is_served_with_its_forecaster(tmp_path):
    """Saved with the forecaster inside, it answers the same through the loader of TensorFlow Serving."""
    if importlib.util.find_spec("tensorflow_recommenders") is None:
        pytest.skip("tensorflow_recommenders isn't installed here; run `make test-slow`")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(EXAMPLES)))}
    command = [sys.executable, "-c", _SERVE, str(tmp_path / "forecaster"), str(tmp_path / "served")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
