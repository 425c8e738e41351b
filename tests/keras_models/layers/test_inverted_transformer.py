import keras
import numpy as np
import pytest

from keras_models.layers.inverted_transformer import InvertedTransformer

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

SERIES = np.random.default_rng(0).normal(size=(3, 10, 4)).astype(np.float32)


def _array(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def _layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def test_equals_the_published_formulas():
    width, heads = 8, 2
    layer = InvertedTransformer(width, layers=1, heads=heads, feed_forward_width=12, activation="relu")
    got = layer(SERIES)
    weights = {weight.path.split("/", 1)[1]: keras.ops.convert_to_numpy(weight) for weight in layer.weights}

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
    np.testing.assert_allclose(_array(got), _layer_norm(tokens), rtol=1e-4, atol=1e-5)


def test_counts_of_weights_are_the_authors():
    """ETTh1 (96 steps) of the authors' code, without its last projection: 841,568 - (256 * 96 + 96)."""
    layer = InvertedTransformer(256, layers=2, heads=8)
    layer.build((None, 96, 7))
    assert layer.count_params() == 816_896


def test_metrics_have_no_position():
    layer = InvertedTransformer(16)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(
        _array(layer(SERIES[:, :, order])), _array(layer(SERIES))[:, order], rtol=1e-4, atol=1e-5
    )


def test_masked_steps_change_nothing():
    layer = InvertedTransformer(16)
    mask = np.ones((3, 10), np.float32)
    mask[:, :4] = 0
    other = np.where(mask[:, :, None] == 1, SERIES, 99.0).astype(np.float32)
    np.testing.assert_array_equal(_array(layer(SERIES, mask=mask)), _array(layer(other, mask=mask)))
    assert not np.allclose(_array(layer(SERIES)), _array(layer(other)))


def test_an_implicit_mask_counts_with_covariates_too():
    layer = InvertedTransformer(16)
    masked = keras.layers.Masking(mask_value=0.0)(
        np.concatenate([np.zeros((3, 2, 4), np.float32), SERIES[:, 2:]], axis=1)
    )
    covariates = np.random.default_rng(1).normal(size=(3, 10, 2)).astype(np.float32)
    mask = np.arange(10) >= np.full((3, 1), 2)
    got, want = layer(masked, covariates=covariates), layer(_array(masked), covariates=covariates, mask=mask)
    np.testing.assert_allclose(_array(got), _array(want), rtol=1e-5, atol=1e-6)
    assert not np.allclose(_array(got), _array(layer(_array(masked), covariates=covariates)))


def test_covariates_are_attended_to_and_do_not_come_out():
    layer = InvertedTransformer(16)
    covariates = np.random.default_rng(1).normal(size=(3, 10, 2)).astype(np.float32)
    with_covariates = _array(layer(SERIES, covariates=covariates))
    assert with_covariates.shape == (3, 4, 16)
    assert not np.allclose(with_covariates, _array(layer(SERIES)))
    # A covariate is a token like a metric: the same as one metric more, cut off.
    beside = layer(np.concatenate([SERIES, covariates], axis=-1))
    np.testing.assert_allclose(with_covariates, _array(beside)[:, :4], rtol=1e-4, atol=1e-5)


def test_without_dropout_training_gives_the_same():
    """Serving multiplies the first two kernels beforehand; training with dropout doesn't, be it 1e-9."""
    exact, dropped = InvertedTransformer(16, dropout=0.0), InvertedTransformer(16, dropout=1e-9)
    exact(SERIES)
    dropped(SERIES)
    dropped.set_weights(exact.get_weights())
    np.testing.assert_allclose(_array(exact(SERIES)), _array(dropped(SERIES, training=True)), rtol=1e-4, atol=1e-5)


def test_drops_out_in_training_only():
    layer = InvertedTransformer(16, dropout=0.5)
    assert not np.allclose(_array(layer(SERIES, training=True)), _array(layer(SERIES, training=True)))
    np.testing.assert_array_equal(_array(layer(SERIES)), _array(layer(SERIES)))


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(InvertedTransformer(16, layers=1, dropout=0.2), SERIES, tmp_path=tmp_path)
    check_output_shape(InvertedTransformer(16), SERIES)
    check_jit(InvertedTransformer(16), SERIES)
    check_low_precision(lambda policy: InvertedTransformer(16, dtype=policy), SERIES)


def test_answers_for_an_empty_batch():
    assert InvertedTransformer(16)(SERIES[:0]).shape == (0, 4, 16)
    assert InvertedTransformer(16)(SERIES[:0], covariates=SERIES[:0]).shape == (0, 4, 16)


@pytest.mark.parametrize("series", [np.zeros_like(SERIES), np.full_like(SERIES, 7.0)], ids=["all padding", "constant"])
def test_series_without_information_stay_finite(series):
    assert np.isfinite(_array(InvertedTransformer(16)(series))).all()
    assert np.isfinite(_array(InvertedTransformer(16)(series, mask=np.zeros((3, 10))))).all()


def test_masked_steps_may_hold_anything():
    layer = InvertedTransformer(16)
    broken = SERIES.copy()
    broken[:, :2] = np.nan
    mask = np.arange(10) >= np.full((3, 1), 2)
    np.testing.assert_array_equal(_array(layer(broken, mask=mask)), _array(layer(SERIES, mask=mask)))


@pytest.mark.parametrize("shape", [(3, 10), (3, 9, 4), (3, 10, 4, 1)])
def test_rejects_other_ranks_and_steps_than_it_was_built_for(shape):
    layer = InvertedTransformer(16)
    layer.build((None, 10, 4))
    with pytest.raises(ValueError, match=r"inputs must have shape \(batch, 10 steps, .*got \(3, "):
        layer(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"covariates must have shape \(batch, 10 steps, .*got \(3, "):
        layer(SERIES, covariates=np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(3, 1), (10,), (3, 10, 1)])
def test_rejects_a_mask_that_would_broadcast(shape):
    with pytest.raises(ValueError, match=r"expected a mask of shape \(3, 10\), got"):
        InvertedTransformer(16)(SERIES, mask=np.ones(shape, np.float32))


def test_cannot_be_built_without_steps():
    with pytest.raises(ValueError, match=r"fixed number of steps, got \(None, None, 4\)"):
        InvertedTransformer(16).build((None, None, 4))
    with pytest.raises(ValueError, match=r"\(batch, steps, metrics\), got \(3, 4\)"):
        InvertedTransformer(16).build((3, 4))


def test_rejects_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="heads must divide model_width, got model_width=10, layers=2, heads=4"):
        InvertedTransformer(10, heads=4)
