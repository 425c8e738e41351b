import keras
import numpy as np
import pytest

from keras_models.layers.running_normalization import RunningNormalization

from .layer_checks import (
    check_jit,
    check_low_precision,
    check_output_shape,
    check_round_trips,
    gradients,
    to_numpy,
)

GENERATOR = np.random.default_rng(0)


def _compressed(x):
    return np.sign(x) * np.log1p(np.abs(x))


def test_statistics_are_those_of_all_rows_seen():
    layer = RunningNormalization()
    batches = [GENERATOR.poisson(rate, (64, 3)).astype(np.float32) - 2 for rate in (1, 5, 20)]
    for batch in batches:
        layer(batch, training=True)
    seen = _compressed(np.concatenate(batches))
    np.testing.assert_allclose(to_numpy(layer.mean), seen.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(to_numpy(layer.variance), seen.var(axis=0), rtol=1e-4)
    want = (_compressed(batches[0]) - seen.mean(axis=0)) / np.sqrt(seen.var(axis=0) + 1e-2)
    np.testing.assert_allclose(to_numpy(layer(batches[0])), want, rtol=1e-3, atol=1e-4)


def test_training_and_inference_agree():
    layer = RunningNormalization()
    batch = GENERATOR.poisson(3, (64, 3)).astype(np.float32)
    np.testing.assert_array_equal(*to_numpy([layer(batch, training=True), layer(batch)]))


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
    assert to_numpy(layer.mean)[0] < 1e-4


def test_rare_and_huge_values_stay_bounded():
    layer = RunningNormalization()
    batch = np.zeros((10_000, 1), np.float32)
    batch[0] = 1e30
    outputs = to_numpy(layer(batch, training=True))
    assert np.isfinite(outputs).all()
    assert outputs.max() == 8.0


def test_numbers_that_are_not_finite_teach_nothing_and_come_out_finite():
    batch = GENERATOR.poisson(3, (64, 3)).astype(np.float32)
    bad = np.concatenate([batch, np.full((6, 3), np.nan, np.float32)])
    bad[-6:, 0] = [np.inf, -np.inf, np.nan, np.inf, np.nan, np.nan]
    layer, want = RunningNormalization(), RunningNormalization()
    outputs = to_numpy(layer(bad, training=True))
    np.testing.assert_allclose(outputs[:64], to_numpy(want(batch, training=True)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs[-6:, 0], [8.0, -8.0, 0.0, 8.0, 0.0, 0.0])
    np.testing.assert_array_equal(outputs[-6:, 1:], np.zeros((6, 2)))
    for got, weight in zip(layer.get_weights(), want.get_weights(), strict=True):
        np.testing.assert_allclose(got, weight, rtol=1e-4)


def test_a_feature_without_numbers_keeps_its_statistics():
    layer = RunningNormalization()
    layer(np.array([[1.0, np.nan], [3.0, np.nan]], np.float32), training=True)
    np.testing.assert_array_equal(to_numpy(layer.batches), [1, 0])
    np.testing.assert_array_equal([to_numpy(layer.mean)[1], to_numpy(layer.variance)[1]], [0, 1])
    # Its first numbers then count in full.
    layer(np.array([[1.0, 7.0], [3.0, 7.0]], np.float32), training=True)
    np.testing.assert_allclose([to_numpy(layer.mean)[1], to_numpy(layer.variance)[1]], [np.log(8), 0], atol=1e-6)


def test_an_empty_batch_changes_nothing():
    layer = RunningNormalization()
    layer(GENERATOR.poisson(3, (64, 3)).astype(np.float32), training=True)
    before = layer.get_weights()
    assert to_numpy(layer(np.zeros((0, 3), np.float32), training=True)).shape == (0, 3)
    for got, want in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_masked_rows_take_no_part_in_the_statistics():
    sequence = GENERATOR.poisson(3, (8, 5, 3)).astype(np.float32)
    mask = GENERATOR.integers(0, 2, (8, 5)).astype(bool)
    sequence[~mask] = 1e9
    layer, want = RunningNormalization(), RunningNormalization()
    layer(sequence, mask=mask, training=True)
    want(sequence[mask], training=True)
    for got, weight in zip(layer.get_weights(), want.get_weights(), strict=True):
        np.testing.assert_allclose(got, weight, rtol=1e-4)


def test_gradients_stay_finite_beside_numbers_that_are_not():
    layer = RunningNormalization()
    x = keras.Variable(np.array([[1.0, 2.0], [np.nan, np.inf]], np.float32))
    layer.build((None, 2))
    (gradient,) = gradients(lambda: keras.ops.sum(layer(keras.ops.convert_to_tensor(x))), [x])
    assert np.isfinite(gradient).all()
    assert (gradient[0] > 0).all()


def test_is_a_well_behaved_layer(tmp_path):
    features = GENERATOR.poisson(3, (16, 5)).astype(np.float32) * 1e5  # beyond float16
    check_round_trips(RunningNormalization(momentum=0.9, epsilon=0.1, limit=5.0), features, tmp_path=tmp_path)
    check_output_shape(RunningNormalization(), features)
    check_jit(RunningNormalization(), features)
    check_low_precision(lambda policy: RunningNormalization(dtype=policy), features)


def test_rejects_settings_out_of_range():
    with pytest.raises(ValueError, match="momentum must lie between 0 and 1"):
        RunningNormalization(momentum=1.0)


def test_rejects_what_does_not_fit():
    layer = RunningNormalization()
    with pytest.raises(ValueError, match=r"expected inputs of shape \(batch, ..., features\), got \(4,\)"):
        layer(np.zeros(4, np.float32))
    layer(np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match=r"expected inputs of shape \(batch, ..., 2\), got \(4, 3\)"):
        layer(np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match=r"expected a mask of .* \(4, 2\) without the last axis, got \(4, 2\)"):
        layer(np.zeros((4, 2), np.float32), mask=np.ones((4, 2), bool))
