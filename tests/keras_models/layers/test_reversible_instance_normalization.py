import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_models.layers.reversible_instance_normalization import ReversibleInstanceNormalization

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

SERIES = np.array([[[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]]], np.float32)


def test_normalises_each_series_over_time():
    normalized, mean, deviation = ReversibleInstanceNormalization()(SERIES)
    np.testing.assert_allclose(mean, [[[3.0, 20.0]]])
    np.testing.assert_allclose(deviation, [[[(8 / 3 + 1e-5) ** 0.5, (200 + 1e-5) ** 0.5]]], rtol=1e-6)
    np.testing.assert_allclose(normalized[0, :, 0], np.array([-2, 0, 2]) / (8 / 3) ** 0.5, rtol=1e-4)
    np.testing.assert_allclose(normalized[0, :, 1], np.array([-10, -10, 20]) / 200**0.5, rtol=1e-4)


def test_padding_changes_nothing_and_comes_out_as_zero():
    layer = ReversibleInstanceNormalization()
    padded = np.concatenate([np.full((1, 2, 2), 777.0, np.float32), SERIES], axis=1)
    layer(padded)
    layer.set_weights([np.array([2.0, 3.0]), np.array([5.0, 7.0])])
    got = layer(padded, mask=np.array([[0, 0, 1, 1, 1]]))
    want = layer(SERIES)
    np.testing.assert_array_equal(got[0][:, :2], np.zeros((1, 2, 2)))
    np.testing.assert_allclose(got[0][:, 2:], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-6)


@pytest.mark.parametrize("valid", [0, 1])
def test_rooms_with_fewer_than_two_valid_steps_stay_finite(valid):
    mask = np.array([[0, 0, valid]])
    normalized, mean, deviation = ReversibleInstanceNormalization()(SERIES, mask=mask)
    np.testing.assert_array_equal(normalized, np.zeros((1, 3, 2)))
    np.testing.assert_allclose(mean, valid * SERIES[:, 2:])
    np.testing.assert_allclose(deviation, np.full((1, 1, 2), 1e-5**0.5), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 1e4), st.floats(0.2, 5.0), st.floats(-3.0, 3.0))
def test_inverse_undoes_normalisation(seed, size, scale, offset):
    series = np.random.default_rng(seed).gamma(0.5, size, (3, 20, 4)).astype(np.float32)
    layer = ReversibleInstanceNormalization()
    layer.build(series.shape)
    layer.set_weights([np.full(4, scale), np.full(4, offset)])
    restored = keras.ops.convert_to_numpy(layer.inverse(*layer(series)))
    np.testing.assert_allclose(restored, series, atol=2e-5 * float(series.max()))


def test_statistics_carry_no_gradient():
    import tensorflow as tf

    layer = ReversibleInstanceNormalization(affine=False)
    x = tf.constant(SERIES)
    with tf.GradientTape() as tape:
        tape.watch(x)
        normalized, _, deviation = layer(x)
        total = tf.reduce_sum(normalized[0, 0])
    # With gradient through mean and deviation this would be 0 for the first step, not 1 / deviation.
    np.testing.assert_allclose(tape.gradient(total, x)[0, 0], 1 / deviation[0, 0], rtol=1e-6)


def test_large_counts_survive_float16():
    series = np.array([[[100_000.0], [300_000.0]]], np.float32)
    normalized, mean, _ = ReversibleInstanceNormalization(dtype="mixed_float16")(series)
    np.testing.assert_allclose(normalized[0, :, 0], [-1.0, 1.0], rtol=1e-3)
    np.testing.assert_allclose(mean[0, 0], [200_000.0])


def test_is_a_well_behaved_layer(tmp_path):
    series = np.random.default_rng(0).random((3, 10, 4)).astype(np.float32)
    check_round_trips(ReversibleInstanceNormalization(epsilon=1e-4), series, tmp_path=tmp_path)
    check_output_shape(ReversibleInstanceNormalization(), series)
    check_jit(ReversibleInstanceNormalization(), series)
    check_low_precision(lambda policy: ReversibleInstanceNormalization(dtype=policy), series)


def test_rejects_what_it_cannot_normalise():
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        ReversibleInstanceNormalization(epsilon=0)
    with pytest.raises(ValueError, match="batch, steps, metrics"):
        ReversibleInstanceNormalization()(np.zeros((3, 4), np.float32))
