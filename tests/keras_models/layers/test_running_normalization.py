import numpy as np
import pytest

from keras_models.layers.running_normalization import RunningNormalization

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

GENERATOR = np.random.default_rng(0)


def _compressed(x):
    return np.sign(x) * np.log1p(np.abs(x))


def test_statistics_are_those_of_all_rows_seen():
    layer = RunningNormalization()
    batches = [GENERATOR.poisson(rate, (64, 3)).astype(np.float32) - 2 for rate in (1, 5, 20)]
    for batch in batches:
        layer(batch, training=True)
    seen = _compressed(np.concatenate(batches))
    np.testing.assert_allclose(layer.mean.numpy(), seen.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(layer.variance.numpy(), seen.var(axis=0), rtol=1e-4)
    want = (_compressed(batches[0]) - seen.mean(axis=0)) / np.sqrt(seen.var(axis=0) + 1e-2)
    np.testing.assert_allclose(layer(batches[0]), want, rtol=1e-3, atol=1e-4)


def test_training_and_inference_agree():
    layer = RunningNormalization()
    batch = GENERATOR.poisson(3, (64, 3)).astype(np.float32)
    np.testing.assert_array_equal(layer(batch, training=True), layer(batch))


def test_inference_changes_nothing():
    layer = RunningNormalization()
    layer(np.ones((4, 2), np.float32), training=True)
    before = layer.get_weights()
    layer(np.full((4, 2), 50.0, np.float32))
    for got, want in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_old_batches_fade():
    layer = RunningNormalization(momentum=0.5)
    layer(np.full((4, 1), np.e**8 - 1, np.float32), training=True)
    for _ in range(20):
        layer(np.zeros((4, 1), np.float32), training=True)
    assert layer.mean.numpy()[0] < 1e-4


def test_rare_and_huge_values_stay_bounded():
    layer = RunningNormalization()
    batch = np.zeros((10_000, 1), np.float32)
    batch[0] = 1e30
    outputs = np.array(layer(batch, training=True))
    assert np.isfinite(outputs).all()
    assert outputs.max() == 8.0


def test_is_a_well_behaved_layer(tmp_path):
    features = GENERATOR.poisson(3, (16, 5)).astype(np.float32) * 1e5  # beyond float16
    check_round_trips(RunningNormalization(momentum=0.9, epsilon=0.1, limit=5.0), features, tmp_path=tmp_path)
    check_output_shape(RunningNormalization(), features)
    check_jit(RunningNormalization(), features)
    check_low_precision(lambda policy: RunningNormalization(dtype=policy), features)


def test_rejects_settings_out_of_range():
    with pytest.raises(ValueError, match="momentum must lie between 0 and 1"):
        RunningNormalization(momentum=1.0)
