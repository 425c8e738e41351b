"""Each public layer as others use it: in a functional model that is trained, saved, loaded and answers the same."""

import keras
import numpy as np
import pytest

from keras_models import layers

ROWS = 12
_GENERATOR = np.random.default_rng(0)


def _floats(*shape):
    return _GENERATOR.normal(size=(ROWS, *shape)).astype(np.float32)


def _ids(bound, *shape):
    return _GENERATOR.integers(0, bound, (ROWS, *shape)).astype(np.int32)


CASES = {
    "CausalTransformer": (lambda: layers.CausalTransformer(layers=1, heads=2), [_floats(5, 8)]),
    "FactorizationMachine": (layers.FactorizationMachine, [_floats(3, 4)]),
    "GroupedDense": (lambda: layers.GroupedDense(3), [_floats(2, 4)]),
    "HashedEmbedding": (lambda: layers.HashedEmbedding(20, 4, hashes=2), [_ids(100, 3)]),
    "InvertedTransformer": (lambda: layers.InvertedTransformer(8, layers=1, heads=2), [_floats(6, 3)]),
    "MultiGateMixtureOfExperts": (lambda: layers.MultiGateMixtureOfExperts(2, 3, (5, 4)), [_floats(6)]),
    "NearestCode": (lambda: layers.NearestCode(_GENERATOR.normal(size=(7, 4))), [_floats(4)]),
    "ProgressiveLayeredExtraction": (
        lambda: layers.ProgressiveLayeredExtraction(2, expert_units=(5, 4), levels=2),
        [_floats(6)],
    ),
    "ReversibleInstanceNormalization": (layers.ReversibleInstanceNormalization, [_floats(6, 3)]),
    "RunLengthEmbedding": (lambda: layers.RunLengthEmbedding(9, 4), [_ids(20, 5)]),
    "RunningNormalization": (layers.RunningNormalization, [_floats(5)]),
    "SemanticIdDecoder": (lambda: layers.SemanticIdDecoder(8, heads=2), [_floats(5, 8)]),
    "SemanticIdEncoder": (lambda: layers.SemanticIdEncoder(11, 8, layers=1, heads=2), [_ids(11, 5), _ids(4, 5)]),
    "SoftBuckets": (layers.SoftBuckets, [_floats(5)]),
    "TargetAttention": (layers.TargetAttention, [_floats(4), _floats(5, 4)]),
}


def test_every_public_layer_is_here():
    assert sorted(CASES) == sorted(layers.__all__)


@pytest.mark.parametrize("name", CASES)
def test_trains_saves_and_loads_inside_a_model(name, tmp_path):
    build, arrays = CASES[name]
    keras.utils.set_random_seed(0)
    inputs = [keras.Input(array.shape[1:], dtype=str(array.dtype)) for array in arrays]
    outputs = build()(*inputs)
    first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    first = keras.layers.Rescaling(1.0)(first)  # NearestCode's indices are integers
    score = keras.layers.Dense(1)(keras.layers.Flatten()(first) if len(first.shape) > 1 else first[:, None])
    model = keras.Model(inputs, score)
    model.compile("adam", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
    before = model.get_weights()
    history = model.fit(arrays, _floats(1), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert any((got != was).any() for got, was in zip(model.get_weights(), before, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(arrays, verbose=0), model.predict(arrays, verbose=0), rtol=1e-5, atol=1e-6
    )
    assert loaded.predict([array[:5] for array in arrays], verbose=0).shape == (5, 1)
