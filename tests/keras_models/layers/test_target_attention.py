import keras
import numpy as np
import pytest

from keras_models.layers.target_attention import TargetAttention

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips, to_numpy

GENERATOR = np.random.default_rng(0)
QUERY = GENERATOR.normal(size=(2, 4)).astype(np.float32)
KEYS = GENERATOR.normal(size=(2, 3, 4)).astype(np.float32)


def test_equals_the_published_formula():
    layer = TargetAttention((5, 6))
    got = to_numpy(layer(QUERY, KEYS))
    weights = {weight.path.split("/", 1)[1]: to_numpy(weight) for weight in layer.weights}
    for b in range(2):
        want = np.zeros(4)
        for key in KEYS[b]:
            # One MLP over [query ; key ; query * key].
            kernel = np.concatenate([weights["query_layer/kernel"], weights["key_layer/kernel"]])
            x = np.concatenate([QUERY[b], key, key * QUERY[b]])
            hidden = np.maximum(x @ kernel + weights["query_layer/bias"], 0)
            hidden = np.maximum(hidden @ weights["hidden_layer_1/kernel"] + weights["hidden_layer_1/bias"], 0)
            want += (hidden @ weights["weight_layer/kernel"] + weights["weight_layer/bias"]) * key
        np.testing.assert_allclose(got[b], want, rtol=1e-4, atol=1e-5)


def test_masked_entries_change_nothing():
    layer = TargetAttention()
    mask = np.array([[1, 0, 1], [0, 0, 0]], bool)
    keys = np.where(mask[:, :, None], KEYS, np.float32(np.nan))
    got = to_numpy(layer(QUERY, keys, keys_mask=mask))
    np.testing.assert_allclose(got[:1], to_numpy(layer(QUERY[:1], KEYS[:1, [0, 2]])), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[1], np.zeros(4))  # an empty history


def test_takes_the_mask_that_the_keys_carry():
    embedding = keras.layers.Embedding(10, 4, mask_zero=True)
    ids = np.array([[0, 3, 5], [0, 0, 0]])
    layer = TargetAttention()
    np.testing.assert_array_equal(
        to_numpy(layer(QUERY, embedding(ids))),
        to_numpy(layer(QUERY, to_numpy(embedding(ids)), keys_mask=ids != 0)),
    )


def test_more_of_the_same_weighs_more():
    """The weights aren't normalised: twice the history gives twice the interest."""
    layer = TargetAttention()
    twice = layer(QUERY, np.concatenate([KEYS, KEYS], axis=1))
    np.testing.assert_allclose(to_numpy(twice), 2 * to_numpy(layer(QUERY, KEYS)), rtol=1e-4, atol=1e-5)


def test_a_bad_vector_stays_in_its_own_example():
    layer = TargetAttention()
    keys = KEYS.copy()
    keys[0, 1, 2] = np.inf
    got = to_numpy(layer(QUERY, keys))
    assert not np.isfinite(got[0]).all()
    np.testing.assert_allclose(got[1], to_numpy(layer(QUERY, KEYS))[1], rtol=1e-6)


def test_no_examples_and_no_entries():
    layer = TargetAttention()
    assert to_numpy(layer(QUERY[:0], KEYS[:0])).shape == (0, 4)
    np.testing.assert_array_equal(to_numpy(layer(QUERY, KEYS[:, :0])), np.zeros((2, 4)))


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(TargetAttention((8, 4), activation="sigmoid"), QUERY, KEYS, tmp_path=tmp_path)
    check_output_shape(TargetAttention(), QUERY, KEYS)
    check_jit(TargetAttention(), QUERY, KEYS)
    check_low_precision(lambda policy: TargetAttention(dtype=policy), QUERY, KEYS)


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(2, 3, 5\)"):
        TargetAttention()(QUERY, np.zeros((2, 3, 5), np.float32))
    with pytest.raises(ValueError, match=r"keys of shape \(batch, entries, width\), got \(2, 4\) and \(2, 4\)"):
        TargetAttention()(QUERY, QUERY)
    layer = TargetAttention()
    layer(QUERY, KEYS)
    with pytest.raises(ValueError, match=r"a query of shape \(batch, 4\) .* got \(2, 3\) and \(2, 3, 3\)"):
        layer(QUERY[:, :3], KEYS[:, :, :3])
    with pytest.raises(ValueError, match=r"got \(1, 4\) and \(2, 3, 4\)"):
        layer(QUERY[:1], KEYS)
    with pytest.raises(ValueError, match=r"keys_mask of shape \(batch, entries\) = \(2, 3\), got \(2, 3, 1\)"):
        layer(QUERY, KEYS, keys_mask=np.ones((2, 3, 1), bool))
    with pytest.raises(ValueError, match="units must be one or more widths"):
        TargetAttention(())
