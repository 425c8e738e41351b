import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_models.layers.reversible_instance_normalization import ReversibleInstanceNormalization

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips, gradients

SERIES = np.array([[[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]]], np.float32)


def _arrays(tensors) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


def test_normalises_each_series_over_time():
    normalized, mean, deviation = _arrays(ReversibleInstanceNormalization()(SERIES))
    np.testing.assert_allclose(mean, [[[3.0, 20.0]]])
    np.testing.assert_allclose(deviation, [[[(8 / 3 + 1e-5) ** 0.5, (200 + 1e-5) ** 0.5]]], rtol=1e-6)
    np.testing.assert_allclose(normalized[0, :, 0], np.array([-2, 0, 2]) / (8 / 3) ** 0.5, rtol=1e-4)
    np.testing.assert_allclose(normalized[0, :, 1], np.array([-10, -10, 20]) / 200**0.5, rtol=1e-4)


def test_padding_changes_nothing_and_comes_out_as_zero():
    layer = ReversibleInstanceNormalization()
    padded = np.concatenate([np.full((1, 2, 2), 777.0, np.float32), SERIES], axis=1)
    layer(padded)
    layer.set_weights([np.array([2.0, 3.0]), np.array([5.0, 7.0])])
    got = _arrays(layer(padded, mask=np.array([[0, 0, 1, 1, 1]])))
    want = _arrays(layer(SERIES))
    np.testing.assert_array_equal(got[0][:, :2], np.zeros((1, 2, 2)))
    np.testing.assert_allclose(got[0][:, 2:], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-6)


@pytest.mark.parametrize("valid", [0, 1])
def test_rooms_with_fewer_than_two_valid_steps_stay_finite(valid):
    mask = np.array([[0, 0, valid]])
    normalized, mean, deviation = _arrays(ReversibleInstanceNormalization()(SERIES, mask=mask))
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
    layer = ReversibleInstanceNormalization(affine=False)
    _, _, deviation = _arrays(layer(SERIES))
    gradient = _gradient(lambda x: keras.ops.sum(layer(x)[0][0, 0]), SERIES)
    # With gradient through mean and deviation this would be 0 for the first step, not 1 / deviation.
    np.testing.assert_allclose(gradient[0, 0], 1 / deviation[0, 0], rtol=1e-6)
    np.testing.assert_array_equal(gradient[0, 1:], np.zeros((2, 2)))


def _gradient(function, x: np.ndarray) -> np.ndarray:
    x = keras.Variable(x)
    return gradients(lambda: function(keras.ops.convert_to_tensor(x)), [x])[0]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_no_number_is_a_missing_step_of_its_metric(broken):
    layer = ReversibleInstanceNormalization()
    layer.build((None, 4, 2))
    layer.set_weights([np.array([2.0, 3.0]), np.array([5.0, 7.0])])
    series = np.concatenate([SERIES, np.array([[[broken, 40.0]]], np.float32)], axis=1)
    normalized, mean, deviation = _arrays(layer(series))
    want, want_mean, want_deviation = _arrays(layer(SERIES))
    np.testing.assert_allclose(normalized[0, :3, 0], want[0, :, 0], rtol=1e-6)
    assert normalized[0, 3, 0] == 0
    assert mean[0, 0, 0] == want_mean[0, 0, 0]
    assert deviation[0, 0, 0] == want_deviation[0, 0, 0]
    np.testing.assert_allclose(mean[0, 0, 1], 25.0)  # the other metric has all its four steps
    gradient = _gradient(lambda x: keras.ops.sum(keras.ops.square(layer(x)[0])), series)
    assert np.isfinite(gradient).all()
    assert gradient[0, 3, 0] == 0


def test_a_series_of_nothing_but_broken_values_is_all_padding():
    normalized, mean, deviation = _arrays(ReversibleInstanceNormalization()(np.full((2, 3, 2), np.nan, np.float32)))
    np.testing.assert_array_equal(normalized, np.zeros((2, 3, 2)))
    np.testing.assert_array_equal(mean, np.zeros((2, 1, 2)))
    np.testing.assert_allclose(deviation, np.full((2, 1, 2), 1e-5**0.5), rtol=1e-5)


def test_a_constant_series_is_zero_and_comes_back():
    layer = ReversibleInstanceNormalization()
    series = np.full((1, 5, 2), 1234.0, np.float32)
    normalized, mean, deviation = layer(series)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(normalized), np.zeros((1, 5, 2)), atol=1e-3)
    restored = keras.ops.convert_to_numpy(layer.inverse(normalized, mean, deviation))
    np.testing.assert_allclose(restored, series, rtol=1e-6)
    assert np.isfinite(_gradient(lambda x: keras.ops.sum(keras.ops.square(layer(x)[0])), series)).all()


def test_a_mask_may_be_of_each_metric():
    mask = np.array([[[1, 0], [1, 1], [1, 1]]])
    normalized, mean, _ = _arrays(ReversibleInstanceNormalization()(SERIES, mask=mask))
    np.testing.assert_allclose(mean, [[[3.0, 25.0]]])
    np.testing.assert_allclose(normalized[0, :, 1], [0, -1, 1], rtol=1e-5)


def test_answers_for_an_empty_batch():
    normalized, mean, deviation = _arrays(ReversibleInstanceNormalization()(SERIES[:0]))
    assert (normalized.shape, mean.shape, deviation.shape) == ((0, 3, 2), (0, 1, 2), (0, 1, 2))


def test_large_counts_survive_float16():
    series = np.array([[[100_000.0], [300_000.0]]], np.float32)
    normalized, mean, _ = _arrays(ReversibleInstanceNormalization(dtype="mixed_float16")(series))
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
    layer = ReversibleInstanceNormalization()
    normalized, mean, deviation = layer(SERIES)
    with pytest.raises(ValueError, match=r"inputs must have shape \(batch, steps, 2 metrics\), got \(1, 3, 4\)"):
        layer(np.zeros((1, 3, 4), np.float32))
    with pytest.raises(ValueError, match=r"outputs must have shape \(batch, steps, 2 metrics\), got \(1, 3, 1\)"):
        layer.inverse(normalized[:, :, :1], mean, deviation)
    for shape in ((1, 1), (3,), (1, 3, 1)):
        with pytest.raises(ValueError, match="expected a mask of shape"):
            layer(np.zeros((1, 3, 2), np.float32), mask=np.ones(shape, np.float32))
