import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.run_length_embedding import RunLengthEmbedding

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips, gradients, to_numpy

LENGTHS = np.array([[0, 1, 2], [3, 4, 1000]], np.int32)


def _layer() -> RunLengthEmbedding:
    layer = RunLengthEmbedding(max_run_length=3, output_dim=2)
    layer.build(LENGTHS.shape)
    layer.set_weights([np.array([[1, 10], [2, 20], [3, 30]], np.float32)])
    return layer


def test_looks_up_the_clipped_length():
    got = to_numpy(_layer()(LENGTHS))
    np.testing.assert_array_equal(got, [[[0, 0], [1, 10], [2, 20]], [[3, 30], [3, 30], [3, 30]]])


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "float32"])
def test_takes_numbers_of_any_type(dtype):
    got = to_numpy(_layer()(np.array([[-5, 0, 2, 100]], dtype)))
    np.testing.assert_array_equal(got, [[[0, 0], [0, 0], [2, 20], [3, 30]]])


def test_a_length_that_is_not_a_number_is_padding():
    got = to_numpy(_layer()(np.array([[np.nan, 2, np.inf, -np.inf]], np.float32)))
    np.testing.assert_array_equal(got, [[[0, 0], [2, 20], [3, 30], [0, 0]]])


def test_padding_is_masked_and_trains_nothing():
    layer = _layer()
    np.testing.assert_array_equal(to_numpy(layer.compute_mask(LENGTHS)), LENGTHS > 0)
    (gradient,) = gradients(lambda: ops.sum(layer(LENGTHS)), layer.trainable_variables)
    np.testing.assert_array_equal(gradient, [[1, 1], [1, 1], [3, 3]])


def test_the_layers_after_it_see_the_mask():
    lengths = keras.Input((3,), dtype="int32")
    model = keras.Model(lengths, keras.layers.GlobalAveragePooling1D()(_layer()(lengths)))
    np.testing.assert_array_equal(to_numpy(model(LENGTHS)), [[1.5, 15], [3, 30]])


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(RunLengthEmbedding(3, 2), LENGTHS, tmp_path=tmp_path)
    check_output_shape(RunLengthEmbedding(3, 2), LENGTHS)
    check_jit(RunLengthEmbedding(3, 2), LENGTHS)
    check_low_precision(lambda policy: RunLengthEmbedding(3, 2, dtype=policy), LENGTHS)
    assert to_numpy(_layer()(LENGTHS[:0])).shape == (0, 3, 2)


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="max_run_length and output_dim must be at least 1, got 0 and 4"):
        RunLengthEmbedding(0, 4)
