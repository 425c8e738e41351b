import numpy as np
import pytest

from keras_models.layers.hashed_embedding import HashedEmbedding

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

IDS = np.array([[0, 1, 2**40], [2**62, 7, -1]], np.int64)


def _bin(id_: int, bins: int) -> int:
    """The hash in Python integers, wrapped by hand: a saved model's meaning must not change."""

    def signed(value: int) -> int:
        return (value + 2**63) % 2**64 - 2**63

    for shift in (32, 29, 32):
        id_ = signed((id_ ^ (id_ >> shift)) * 0x2545F491)
    return (id_ ^ (id_ >> 32)) % bins


def test_bins_are_those_of_the_documented_hash():
    ids = np.concatenate([IDS.ravel(), np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 200)])
    got = HashedEmbedding(997, 2).bin_of(ids)
    np.testing.assert_array_equal(got, [_bin(int(i), 997) for i in ids])


@pytest.mark.parametrize("stride", [1, 64, 1000, 2**32])
def test_ids_with_a_pattern_spread_as_random_ones_would(stride):
    bins = 1024
    hits = np.bincount(HashedEmbedding(bins, 1).bin_of(np.arange(20 * bins) * stride), minlength=bins)
    # 20 a bin on average; for random bins the variance is 20 as well, and none is empty.
    assert hits.min() > 0
    assert hits.var() < 40


def test_looks_up_rows_and_leaves_padding_at_zero():
    layer = HashedEmbedding(50, 3)
    got = np.array(layer(IDS))
    table = layer.embeddings.numpy()
    np.testing.assert_array_equal(got[0, 1], table[_bin(1, 50)])
    np.testing.assert_array_equal(got[1, 2], np.zeros(3))
    np.testing.assert_array_equal(layer.compute_mask(IDS), [[True, True, True], [True, True, False]])
    assert np.array(HashedEmbedding(50, 3, padding_id=None)(IDS))[1, 2].any()


def test_padding_trains_nothing():
    import tensorflow as tf

    layer = HashedEmbedding(50, 3)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(np.array([-1, -1, 5])))
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.embeddings.value))
    expected = np.zeros((50, 3))
    expected[_bin(5, 50)] = 1
    np.testing.assert_array_equal(gradient, expected)


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(
        HashedEmbedding(10, 4, padding_id=0, embeddings_initializer="normal", embeddings_regularizer="l2"),
        IDS,
        tmp_path=tmp_path,
    )
    check_output_shape(HashedEmbedding(10, 4), IDS)
    check_jit(HashedEmbedding(10, 4), IDS)
    check_low_precision(lambda policy: HashedEmbedding(10, 4, dtype=policy), IDS)


def test_rejects_an_empty_table():
    with pytest.raises(ValueError, match="bins and output_dim must be at least 1, got 0 and 4"):
        HashedEmbedding(0, 4)
