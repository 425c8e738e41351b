import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.hashed_embedding import HashedEmbedding

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

WIDE = keras.backend.backend() != "jax"
IDS = np.array([[0, 1, 123456789], [-(2**31), 7, -1]], np.int64)


def _bins(ids, bins, hashes=1):
    return ops.convert_to_numpy(HashedEmbedding(bins, 2, hashes=hashes).bins_of(ids))


def test_hash_of_a_saved_model_never_changes():
    ids = np.array([0, 1, -1, 7, 2**31 - 1, -(2**31), 123456789], np.int64)
    expected = [[76, 667, 953], [910, 801, 747], [822, 133, 321], [339, 704, 39], [757, 9, 688], [762, 30, 779]]
    np.testing.assert_array_equal(_bins(ids, 997, 3), [*expected, [948, 660, 779]])
    np.testing.assert_array_equal(_bins(ids.astype(np.int32), 997, 3), [*expected, [948, 660, 779]])


@pytest.mark.skipif(not WIDE, reason="JAX has 32-bit integers; run it with KERAS_BACKEND=tensorflow")
def test_hash_of_a_saved_model_never_changes_for_long_ids():
    ids = np.array([2**40, 2**62 + 1, -(2**63), 2**63 - 1, 2**32], np.int64)
    np.testing.assert_array_equal(_bins(ids, 997, 2), [[916, 355], [975, 918], [96, 825], [639, 53], [147, 884]])


def _patterns(count: int) -> dict[str, np.ndarray]:
    patterns = {
        "consecutive": np.arange(count),
        "negative": -np.arange(count) - 2,
        "multiples of 64": np.arange(count) * 64,
        "multiples of 1000": np.arange(count) * 1000,
    }
    if WIDE:
        patterns |= {
            "high word only": np.arange(count) << 32,
            "time and shard": (np.arange(count) // 7 << 22) + np.arange(count) % 7,
            "random": np.random.default_rng(0).integers(-(2**63), 2**63 - 1, count),
        }
    return patterns


@pytest.mark.parametrize("bins", [997, 1024])
@pytest.mark.parametrize("pattern", _patterns(1))
def test_ids_with_a_pattern_spread_as_random_ones_would(pattern, bins):
    """Chi-square with bins - 1 degrees of freedom, which has mean bins - 1 and variance 2 (bins - 1)."""
    for column in _bins(_patterns(20 * bins)[pattern], bins, hashes=2).T:
        chi_square = ((np.bincount(column, minlength=bins) - 20) ** 2 / 20).sum()
        assert abs(chi_square - (bins - 1)) < 4.5 * math.sqrt(2 * (bins - 1))


@pytest.mark.parametrize("pattern", _patterns(1))
def test_hashes_are_independent_of_each_other(pattern):
    first, second, third = _bins(_patterns(20_480)[pattern], 32, hashes=3).T
    for one, other in ((first, second), (first, third), (second, third)):
        chi_square = ((np.bincount(one * 32 + other, minlength=1024) - 20) ** 2 / 20).sum()
        assert abs(chi_square - 1023) < 4.5 * math.sqrt(2 * 1023)


@pytest.mark.parametrize(
    ("bins", "hashes", "ids"), [(1024, 1, 3000), (128, 2, 4000), (512, 2, 20_000), (64, 3, 16_000)]
)
@pytest.mark.parametrize("pattern", _patterns(1))
def test_as_many_ids_share_a_vector_as_documented(pattern, bins, hashes, ids):
    rows = np.sort(_bins(_patterns(ids)[pattern], bins, hashes), axis=1)
    _, sizes = np.unique(rows, axis=0, return_counts=True)
    pairs = (sizes * (sizes - 1) // 2).sum()
    expected = ids * (ids - 1) / 2 * math.factorial(hashes) / bins**hashes
    # Terms that the formula leaves out, of the next power of the bins, and four and a half deviations of chance.
    assert abs(pairs - expected) < 4.5 * math.sqrt(expected) + expected * hashes**2 / bins


@pytest.mark.parametrize("hashes", [1, 3])
def test_sums_the_rows_of_the_hashes_and_leaves_padding_at_zero(hashes):
    layer = HashedEmbedding(50, 3, hashes=hashes)
    got = ops.convert_to_numpy(layer(IDS))
    table = ops.convert_to_numpy(layer.embeddings)
    expected = table[ops.convert_to_numpy(layer.bins_of(IDS))].sum(axis=-2)
    expected[1, 2] = 0
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer.compute_mask(ops.convert_to_tensor(IDS))), [[True, True, True], [True, True, False]]
    )
    assert ops.convert_to_numpy(HashedEmbedding(50, 3, hashes, padding_id=None)(IDS))[1, 2].any()


def test_padding_trains_nothing():
    layer = HashedEmbedding(50, 3)
    layer.build(None)
    start = ops.convert_to_numpy(layer.embeddings)
    ids = keras.Input((1,), dtype="int64")
    model = keras.Model(ids, layer(ids))
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    model.train_on_batch(np.array([[-1], [-1], [5]]), np.ones((3, 1, 3), "float32"))
    moved = np.flatnonzero((ops.convert_to_numpy(layer.embeddings) != start).any(axis=1))
    np.testing.assert_array_equal(moved, _bins(np.array([5]), 50)[0])


@pytest.mark.parametrize("hashes", [1, 2])
def test_is_a_well_behaved_layer(hashes, tmp_path):
    check_round_trips(
        HashedEmbedding(10, 4, hashes, padding_id=0, embeddings_initializer="normal", embeddings_regularizer="l2"),
        IDS,
        tmp_path=tmp_path,
    )
    check_output_shape(HashedEmbedding(10, 4, hashes), IDS)
    check_jit(HashedEmbedding(10, 4, hashes), IDS)
    check_low_precision(lambda policy: HashedEmbedding(10, 4, hashes, dtype=policy), IDS)


def test_takes_an_empty_batch():
    assert tuple(HashedEmbedding(10, 4, hashes=2)(np.zeros((0, 3), np.int64)).shape) == (0, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "bins and output_dim must be at least 1, got 0 and 4"),
        ((2**31, 4), "bins must be below 2\\^31, as far as the hash reaches, got 2147483648"),
        ((10, 4, 0), "hashes must be at least 1, got 0"),
    ],
)
def test_rejects_sizes_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        HashedEmbedding(*arguments)


def test_rejects_ids_that_were_cast_to_floats():
    with pytest.raises(ValueError, match="ids must be integers, got float32"):
        HashedEmbedding(10, 4)(np.array([1.0, 2.0], "float32"))
