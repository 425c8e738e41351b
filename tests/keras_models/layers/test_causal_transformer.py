import math

import numpy as np
import pytest
from keras import ops

from keras_models.layers.causal_transformer import CausalTransformer

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

SEQUENCE = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], bool)


def _numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


def _layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def test_equals_the_published_formulas():
    layer = CausalTransformer(layers=1, heads=2, feed_forward_width=12)
    got = _numpy(layer(SEQUENCE))
    weights = {weight.path.split("/", 1)[1]: _numpy(weight) for weight in layer.weights}

    def of(name, kind="kernel"):
        return weights[f"encoder_layer_0/{name}/{kind}"]

    for example in range(3):
        x = SEQUENCE[example] + weights["position_embeddings"]
        tokens = _layer_norm(x)
        attended = np.zeros_like(x) + of("attention/attention_output", "bias")
        for head in range(2):
            q, k, v = (
                tokens @ of(f"attention/{name}")[:, head] + of(f"attention/{name}", "bias")[head]
                for name in ("query", "key", "value")
            )
            for t in range(5):
                scores = np.exp(q[t] @ k[: t + 1].T / 2)  # the root of a head's width, 4
                attended[t] += (scores / scores.sum()) @ v[: t + 1] @ of("attention/attention_output")[head]
        x = x + attended
        hidden = _layer_norm(x) @ of("hidden") + of("hidden", "bias")
        hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + hidden @ of("output_layer") + of("output_layer", "bias")
        np.testing.assert_allclose(got[example], _layer_norm(x), rtol=1e-3, atol=1e-4)


def test_sees_nothing_that_comes_after():
    layer = CausalTransformer(heads=2)
    before = _numpy(layer(SEQUENCE))
    for t in range(5):
        other = SEQUENCE.copy()
        other[:, t:] += 9 * np.random.default_rng(t).normal(size=other[:, t:].shape).astype(np.float32)
        after = _numpy(layer(other))
        np.testing.assert_allclose(after[:, :t], before[:, :t], rtol=1e-5, atol=1e-6)
        assert not np.allclose(after[:, t], before[:, t])


@pytest.mark.parametrize("garbage", [7.0, np.nan, np.inf])
def test_padding_changes_nothing_and_is_encoded_as_zeros(garbage):
    layer = CausalTransformer(heads=2)
    got = _numpy(layer(np.where(MASK[:, :, None], SEQUENCE, np.float32(garbage)), mask=MASK))
    np.testing.assert_allclose(got[:1], _numpy(layer(SEQUENCE[:1])), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1:2, 2:], _numpy(layer(SEQUENCE[1:2, 2:])), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[~MASK], np.zeros(((~MASK).sum(), 8)))
    # Wherever it stands: between two entries it is as if it weren't there.
    mask = np.array([[1, 0, 1, 1, 0]], bool)
    between = _numpy(layer(SEQUENCE[:1], mask=mask))[mask]
    np.testing.assert_allclose(between, _numpy(layer(SEQUENCE[:1, [0, 2, 3]]))[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.compute_mask(SEQUENCE, MASK), MASK)


def test_order_matters():
    layer = CausalTransformer(heads=2)
    swapped = _numpy(layer(SEQUENCE[:, [1, 0, 2, 3, 4]]))
    assert not np.allclose(swapped[:, 2:], _numpy(layer(SEQUENCE))[:, 2:], atol=1e-5)


def test_drops_out_in_training_only():
    layer = CausalTransformer(heads=2, dropout=0.5)
    assert not np.allclose(_numpy(layer(SEQUENCE, training=True)), _numpy(layer(SEQUENCE, training=True)))
    np.testing.assert_array_equal(_numpy(layer(SEQUENCE)), _numpy(layer(SEQUENCE)))


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(CausalTransformer(layers=1, heads=2, activation="relu"), SEQUENCE, tmp_path=tmp_path)
    check_output_shape(CausalTransformer(heads=2), SEQUENCE)
    check_jit(CausalTransformer(heads=2), SEQUENCE)
    check_low_precision(lambda policy: CausalTransformer(heads=2, dtype=policy), SEQUENCE)


def test_answers_for_an_empty_batch():
    assert tuple(CausalTransformer(heads=2)(SEQUENCE[:0]).shape) == (0, 5, 8)


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="heads=3 and a width of 8"):
        CausalTransformer(heads=3)(SEQUENCE)
    with pytest.raises(ValueError, match=r"\(batch, entries, width\) .*, got \(5, 8\)"):
        CausalTransformer(heads=2)(SEQUENCE[0])
    with pytest.raises(ValueError, match="layers must be at least 0 and heads at least 1, got layers=-1, heads=2"):
        CausalTransformer(layers=-1, heads=2)
    layer = CausalTransformer(heads=2)
    layer(SEQUENCE)
    with pytest.raises(ValueError, match="expected at most 5 entries, got 10"):
        layer.call(ops.convert_to_tensor(np.concatenate([SEQUENCE, SEQUENCE], axis=1)))
    with pytest.raises(ValueError, match="value 8, but received"):
        layer(SEQUENCE[..., :4])
    with pytest.raises(ValueError, match=r"expected a mask of shape .*, got \(1, 5\)"):
        layer(SEQUENCE, mask=np.ones((1, 5), bool))
    with pytest.raises(ValueError, match="units=0"):
        CausalTransformer(heads=2, feed_forward_width=0)(SEQUENCE)
