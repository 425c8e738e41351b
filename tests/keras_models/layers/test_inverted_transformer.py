import numpy as np
import pytest

from keras_models.layers.inverted_transformer import InvertedTransformer

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

SERIES = np.random.default_rng(0).normal(size=(3, 10, 4)).astype(np.float32)


def _layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def test_equals_the_published_formulas():
    width, heads = 8, 2
    layer = InvertedTransformer(width, layers=1, heads=heads, feed_forward_width=12, activation="relu")
    got = layer(SERIES)
    weights = {weight.path.split("/", 1)[1]: weight.numpy() for weight in layer.weights}

    def dense(name, x):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    tokens = dense("series_embedding", SERIES.transpose(0, 2, 1))
    q, k, v = (
        x.reshape(3, 4, heads, width // heads).transpose(0, 2, 1, 3)
        for x in np.split(dense("encoder_layer_0/projection", tokens), 3, axis=-1)
    )
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / (width // heads) ** 0.5)
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    tokens = _layer_norm(
        tokens + dense("encoder_layer_0/attention_output", mixed.transpose(0, 2, 1, 3).reshape(3, 4, width))
    )
    hidden = np.maximum(dense("encoder_layer_0/hidden", tokens), 0)
    tokens = _layer_norm(tokens + dense("encoder_layer_0/output_layer", hidden))
    np.testing.assert_allclose(got, _layer_norm(tokens), rtol=1e-4, atol=1e-5)


def test_counts_of_weights_are_the_authors():
    """ETTh1 (96 steps) of the authors' code, without its last projection: 841,568 - (256 * 96 + 96)."""
    layer = InvertedTransformer(256, layers=2, heads=8)
    layer.build((None, 96, 7))
    assert layer.count_params() == 816_896


def test_metrics_have_no_position():
    layer = InvertedTransformer(16)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(layer(SERIES[:, :, order]), np.array(layer(SERIES))[:, order], rtol=1e-4, atol=1e-5)


def test_masked_steps_change_nothing():
    layer = InvertedTransformer(16)
    mask = np.ones((3, 10), np.float32)
    mask[:, :4] = 0
    other = np.where(mask[:, :, None] == 1, SERIES, 99.0).astype(np.float32)
    np.testing.assert_array_equal(layer(SERIES, mask=mask), layer(other, mask=mask))
    assert not np.allclose(layer(SERIES), layer(other))


def test_drops_out_in_training_only():
    layer = InvertedTransformer(16, dropout=0.5)
    assert not np.allclose(layer(SERIES, training=True), layer(SERIES, training=True))
    np.testing.assert_array_equal(layer(SERIES), layer(SERIES))


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(InvertedTransformer(16, layers=1, dropout=0.2), SERIES, tmp_path=tmp_path)
    check_output_shape(InvertedTransformer(16), SERIES)
    check_jit(InvertedTransformer(16), SERIES)
    check_low_precision(lambda policy: InvertedTransformer(16, dtype=policy), SERIES)


def test_answers_for_an_empty_batch():
    assert InvertedTransformer(16)(SERIES[:0]).shape == (0, 4, 16)


def test_rejects_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="heads must divide model_width, got model_width=10, layers=2, heads=4"):
        InvertedTransformer(10, heads=4)
