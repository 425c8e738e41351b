import keras
import numpy as np
import pytest

from keras_models.layers.grouped_dense import GroupedDense

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips, to_numpy

INPUTS = np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)


def test_each_group_has_a_layer_of_its_own():
    layer = GroupedDense(1, activation="relu")
    layer.build(INPUTS.shape)
    layer.set_weights([np.array([[[1.0], [10.0]], [[-1.0], [-1.0]]]), np.array([[0.5], [2.0]])])
    np.testing.assert_allclose(to_numpy(layer(INPUTS)), [[[21.5], [0.0]]])


def test_biases_can_be_left_out():
    layer = GroupedDense(1, use_bias=False)
    layer.build(INPUTS.shape)
    layer.set_weights([np.array([[[1.0], [10.0]], [[-1.0], [-1.0]]])])
    np.testing.assert_allclose(to_numpy(layer(INPUTS)), [[[21.0], [-7.0]]])
    assert keras.layers.deserialize(keras.layers.serialize(layer)).use_bias is False


def test_kernels_are_drawn_as_one_dense_layer_would_be():
    keras.utils.set_random_seed(0)
    layer = GroupedDense(50)
    layer.build((None, 20, 100))
    kernel = to_numpy(layer.kernel)
    assert abs(kernel).max() <= (6 / 100) ** 0.5
    assert kernel.std() == pytest.approx((2 / 100) ** 0.5, rel=0.02)
    assert not np.allclose(kernel[0], kernel[1])


def test_is_a_well_behaved_layer(tmp_path):
    inputs = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    check_round_trips(GroupedDense(6, activation="gelu"), inputs, tmp_path=tmp_path)
    check_output_shape(GroupedDense(6), inputs)
    check_jit(GroupedDense(6), inputs)
    check_low_precision(lambda policy: GroupedDense(6, dtype=policy), inputs)


def test_an_empty_batch_gives_an_empty_output():
    assert to_numpy(GroupedDense(6)(np.zeros((0, 4, 5), np.float32))).shape == (0, 4, 6)


def test_rejects_wrong_shapes():
    with pytest.raises(ValueError, match="batch, groups, width"):
        GroupedDense(2)(np.zeros((3, 4), np.float32))
    layer = GroupedDense(2)
    layer(INPUTS)
    with pytest.raises(ValueError, match=r"expected axis 1 of input shape to have value 2, .* shape \(1, 1, 2\)"):
        layer(INPUTS[:, :1])
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        GroupedDense(0)
