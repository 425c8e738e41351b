import numpy as np
import pytest

from keras_models.layers.soft_buckets import SoftBuckets

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

INPUTS = np.array([[0.5, -1.0], [2.0, 0.0]], np.float32)


def test_steps_stand_beside_the_value():
    layer = SoftBuckets(steps=3, span=1.0)
    want = [
        [0.5, -1.0, np.tanh(3.0), np.tanh(1.0), np.tanh(-1.0), np.tanh(0.0), np.tanh(-2.0), np.tanh(-4.0)],
        [2.0, 0.0, np.tanh(6.0), np.tanh(4.0), np.tanh(2.0), np.tanh(2.0), np.tanh(0.0), np.tanh(-2.0)],
    ]
    np.testing.assert_allclose(layer(INPUTS), want, rtol=1e-4, atol=1e-6)


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(SoftBuckets(steps=4, span=2.5), INPUTS, tmp_path=tmp_path)
    check_output_shape(SoftBuckets(), INPUTS)
    check_jit(SoftBuckets(), INPUTS)
    check_low_precision(lambda policy: SoftBuckets(dtype=policy), INPUTS)


def test_rejects_no_steps():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        SoftBuckets(steps=0)
