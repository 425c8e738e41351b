import json

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops

from keras_models.layers.nearest_code import NearestCode

from .layer_checks import check_jit, check_output_shape

CODEBOOK = np.array([[0, 0], [10, 0], [0, 10], [10, 0]], np.float32)


def _numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


def _assert_nearest(got, vectors, codebook) -> None:
    """Each code is, in float64, as near as the nearest up to the guarantee's rounding, and -1 nowhere."""
    vectors, codebook = np.float32(vectors).astype(np.float64), np.float32(codebook).astype(np.float64)
    distances = np.stack([np.square(vector - codebook).sum(axis=-1) for vector in vectors])
    assert ((got >= 0) & (got < len(codebook))).all()
    chosen = np.take_along_axis(distances, got[:, None], axis=1)[:, 0]
    tolerance = (codebook.shape[1] + 8) * 2.0**-23
    assert (chosen <= distances.min(axis=1) * (1 + tolerance)).all()
    # Equal codes: the lowest index.
    for index, vector_code in zip(got, codebook[got], strict=True):
        assert index == np.flatnonzero((codebook == vector_code).all(axis=1))[0]


def test_by_hand():
    vectors = np.array([[[1, 2], [9, 3]], [[-4, 6], [100, 1]]], np.float32)
    got = NearestCode(CODEBOOK)(vectors)
    assert keras.backend.standardize_dtype(got.dtype) == "int32"
    np.testing.assert_array_equal(_numpy(got), [[0, 1], [2, 1]])  # codes 1 and 3 are equal


def test_one_vector_and_ties():
    assert int(NearestCode(CODEBOOK)(np.array([9.0, 9.0], np.float32))) == 1  # 1, 2 and 3 are as near
    assert int(NearestCode(CODEBOOK)(np.array([5.0, 0.0], np.float32))) == 0


def test_what_is_not_a_vector_is_padding():
    vectors = np.array([[1, 2], [np.nan, 2], [1, np.inf], [-np.inf, np.inf], [3e38, 0], [9, 1]], np.float32)
    np.testing.assert_array_equal(_numpy(NearestCode(CODEBOOK)(vectors)), [0, -1, -1, -1, -1, 1])
    mask = np.array([0, 1, 1, 1, 1, 1], bool)
    got = NearestCode(CODEBOOK)(vectors, mask=mask)
    np.testing.assert_array_equal(_numpy(got), [-1, -1, -1, -1, -1, 1])
    np.testing.assert_array_equal(_numpy(NearestCode(CODEBOOK).compute_mask(vectors, mask)), mask)


@settings(
    max_examples=25 if keras.backend.backend() == "tensorflow" else 8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0.0, 1.0, 1e3, 1e6, -1e9, 1e30]),
    spread=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    clusters=st.sampled_from([1, 2, 5]),
    repeats=st.sampled_from([1, 2, 3]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e5]),
)
def test_equals_brute_force_in_float64(seed, offset, spread, clusters, repeats, scale):
    """Codebooks far from the origin, in tight clusters far apart, with repeated codes, tiny and huge."""
    generator = np.random.default_rng(seed)
    centres = offset + 100 * generator.normal(size=(clusters, 6))
    codes = np.repeat(centres, 4, axis=0) + spread * generator.normal(size=(4 * clusters, 6))
    codes = (scale * generator.permutation(np.tile(codes, (repeats, 1)))).astype(np.float32)
    codes = np.clip(codes, -1e37, 1e37)
    picked = codes[generator.integers(0, len(codes), 12)]
    near = picked * (1 + 1e-6 * generator.normal(size=picked.shape)) + scale * spread * generator.normal(
        size=picked.shape
    )
    between = (picked[:6].astype(np.float64) + picked[6:]) / 2
    vectors = np.concatenate([picked, near, between]).astype(np.float32)
    _assert_nearest(_numpy(NearestCode(codes)(vectors)), vectors, codes)


@pytest.mark.parametrize("dim", [1, 64])
def test_blocks_give_what_one_block_gives(dim):
    generator = np.random.default_rng(0)
    codes, vectors = generator.normal(size=(300, dim)), generator.normal(size=(50, dim))
    whole = _numpy(NearestCode(codes)(vectors))
    _assert_nearest(whole, vectors, codes)
    for block_size in (1, 7, 49, 50, 51):
        np.testing.assert_array_equal(_numpy(NearestCode(codes, block_size=block_size)(vectors)), whole)


def test_indices_beyond_two_bytes():
    codes = np.arange(70_000, dtype=np.float32)[:, None]
    vectors = np.array([[65_535.4], [65_536.0], [69_999.9], [1e9]], np.float32)
    np.testing.assert_array_equal(_numpy(NearestCode(codes)(vectors)), [65_535, 65_536, 69_999, 69_999])


def test_few_mantissa_bits_change_nothing_but_time():
    generator = np.random.default_rng(0)
    codes, vectors = generator.normal(size=(40, 8)), generator.normal(size=(20, 8))
    want = _numpy(NearestCode(codes)(vectors))
    np.testing.assert_array_equal(_numpy(NearestCode(codes, mantissa_bits=8)(vectors)), want)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_computes_in_float32_under_any_policy(policy):
    codes = np.float32([[1000.0], [1000.1], [1000.2]])  # equal in either half precision
    got = NearestCode(codes, dtype=policy)(codes)
    assert keras.backend.standardize_dtype(got.dtype) == "int32"
    np.testing.assert_array_equal(_numpy(got), [0, 1, 2])


def test_codebook_set_later():
    layer = NearestCode(codes=4, dim=2)
    vectors = np.array([[9, 1], [1, 9]], np.float32)
    np.testing.assert_array_equal(_numpy(layer(vectors)), [-1, -1])  # not set yet
    layer.set_codebook(CODEBOOK)
    np.testing.assert_array_equal(_numpy(layer(vectors)), [1, 2])
    layer.set_weights([CODEBOOK[::-1]])
    np.testing.assert_array_equal(_numpy(layer(vectors)), [0, 1])
    assert layer.trainable_weights == []


def test_saves_the_codebook_as_a_weight(tmp_path):
    inputs = keras.Input((3, 2))
    model = keras.Model(inputs, NearestCode(CODEBOOK, block_size=5, mantissa_bits=20)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    vectors = np.random.default_rng(0).normal(5, 5, size=(6, 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(_numpy(loaded(vectors)), _numpy(model(vectors)))
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()
    large = NearestCode(np.zeros((20_000, 64)))
    assert len(json.dumps(keras.layers.serialize(large))) < 1000
    assert keras.backend.standardize_dtype(model.output.dtype) == "int32"


def test_is_a_well_behaved_layer():
    vectors = np.random.default_rng(0).normal(5, 5, size=(3, 7, 2)).astype(np.float32)
    check_output_shape(NearestCode(CODEBOOK), vectors)
    check_jit(NearestCode(CODEBOOK), vectors)
    check_jit(NearestCode(CODEBOOK, block_size=4), vectors)
    check_jit(NearestCode(np.repeat(CODEBOOK, 5, axis=0)), vectors)  # all of them need the slow road


def test_answers_for_an_empty_batch():
    assert tuple(NearestCode(CODEBOOK)(np.zeros((0, 2), np.float32)).shape) == (0,)
    assert tuple(NearestCode(CODEBOOK)(np.zeros((0, 3, 2), np.float32)).shape) == (0, 3)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_passes_no_gradient_and_trains_beside_others():
    inputs = keras.Input((2,))
    codes = NearestCode(CODEBOOK)(keras.layers.Dense(2, name="before")(inputs))
    outputs = keras.layers.Dense(1)(keras.layers.Embedding(4, 3)(ops.maximum(codes, 0)))
    model = keras.Model(inputs, outputs)
    before = _numpy(model.get_layer("before").kernel)
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(np.ones((8, 2), np.float32), np.ones((8, 1), np.float32), verbose=0)
    np.testing.assert_array_equal(_numpy(model.get_layer("before").kernel), before)


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match=r"vectors of shape \(..., 2\), got \(5, 3\)"):
        NearestCode(CODEBOOK)(np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match="both codes and dim, got codes=5 and dim=None"):
        NearestCode(codes=5)
    with pytest.raises(ValueError, match=r"a codebook of shape \(codes, dim\), got \(4,\)"):
        NearestCode(np.zeros(4))
    with pytest.raises(ValueError, match=r"a codebook of shape \(4, 2\), got \(4, 3\)"):
        NearestCode(CODEBOOK).set_codebook(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="2 of its 4 rows do not, the first is row 1"):
        NearestCode(np.float32([[0, 0], [np.nan, 0], [0, np.inf], [1, 1]]))
    with pytest.raises(ValueError, match=r"a mask of shape \(5,\), got \(5, 2\)"):
        NearestCode(CODEBOOK)(np.zeros((5, 2), np.float32), mask=np.ones((5, 2), bool))
    with pytest.raises(ValueError, match=r"a mask of shape \(1, 5\), got \(1, 1\)"):
        NearestCode(CODEBOOK)(np.zeros((1, 5, 2), np.float32), mask=np.ones((1, 1), bool))
    built = NearestCode(CODEBOOK)
    built(np.zeros((5, 2), np.float32))
    with pytest.raises(ValueError, match=r"expected axis -1 .* value 2, but received .* \(5, 3\)"):
        built(np.zeros((5, 3), np.float32))
