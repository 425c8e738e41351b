import numpy as np
import pytest

from keras_models.layers.soft_buckets import SoftBuckets

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips, to_numpy

INPUTS = np.array([[0.5, -1.0], [2.0, 0.0]], np.float32)


def test_steps_stand_beside_the_value():
    layer = SoftBuckets(steps=3, span=1.0)
    want = [
        [0.5, -1.0, np.tanh(3.0), np.tanh(1.0), np.tanh(-1.0), np.tanh(0.0), np.tanh(-2.0), np.tanh(-4.0)],
        [2.0, 0.0, np.tanh(6.0), np.tanh(4.0), np.tanh(2.0), np.tanh(2.0), np.tanh(0.0), np.tanh(-2.0)],
    ]
    np.testing.assert_allclose(to_numpy(layer(INPUTS)), want, rtol=1e-4, atol=1e-6)


def test_numbers_that_are_not_finite_come_out_finite():
    layer = SoftBuckets(steps=3, span=1.0)
    got = to_numpy(layer(np.array([[np.nan], [np.inf], [-np.inf]], np.float32)))
    np.testing.assert_array_equal(got, to_numpy(layer(np.array([[0.0], [10.0], [-10.0]], np.float32))))


def test_an_empty_batch_gives_an_empty_output():
    assert to_numpy(SoftBuckets(steps=3)(np.zeros((0, 2), np.float32))).shape == (0, 8)


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(SoftBuckets(steps=4, span=2.5), INPUTS, tmp_path=tmp_path)
    check_output_shape(SoftBuckets(), INPUTS)
    check_jit(SoftBuckets(), INPUTS)
    check_low_precision(lambda policy: SoftBuckets(dtype=policy), INPUTS)


def test_rejects_no_steps():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        SoftBuckets(steps=0)


def test_rejects_what_does_not_fit():
    layer = SoftBuckets()
    with pytest.raises(ValueError, match=r"expected inputs of shape \(batch, features\), got \(2, 3, 4\)"):
        layer(np.zeros((2, 3, 4), np.float32))
    layer(INPUTS)
    with pytest.raises(ValueError, match=r"expected inputs of shape \(batch, 2\), got \(2, 3\)"):
        layer(np.zeros((2, 3), np.float32))
