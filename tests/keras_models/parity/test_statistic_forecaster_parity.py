"""RevIN, iTransformer and the forecaster against PyTorch code written from the equations, weights copied across."""

import keras
import numpy as np
import pytest

from keras_models.layers.inverted_transformer import InvertedTransformer
from keras_models.layers.reversible_instance_normalization import ReversibleInstanceNormalization
from keras_models.statistic_forecaster import StatisticForecaster

# PyTorch and TensorFlow don't live in one process everywhere, and Keras has to compute our side's gradients on
# something: its own PyTorch backend. That the other backends agree with it is for each layer's own tests.
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="needs PyTorch; run it with `make test-backends` (KERAS_BACKEND=torch)"
)

EXAMPLES, STEPS, METRICS, HORIZON, WIDTH, HEADS, LAYERS, HIDDEN = 6, 11, 5, 3, 16, 4, 2, 24


def _randomize(model, seed: int = 0) -> None:
    generator = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        centre = 1.0 if weight.path.endswith(("gamma", "scale")) else 0.0
        weight.assign(centre + 0.3 * generator.normal(size=weight.shape))


def _series(*shape) -> np.ndarray:
    return np.random.default_rng(1).gamma(0.5, 20.0, shape).astype(np.float32)


def _copies(model) -> dict:
    """Path below the model -> a leaf tensor with the weight's value."""
    import torch

    return {
        weight.path.split("/", 1)[1]: torch.tensor(keras.ops.convert_to_numpy(weight).copy(), requires_grad=True)
        for weight in model.trainable_weights
    }


def _affine(x, weights, name):
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def _layer_norm(x, weights, name):
    import torch

    return torch.nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}/gamma"], weights[f"{name}/beta"], eps=1e-5)


def _encode(series, weights, layers=LAYERS, heads=HEADS):
    """The iTransformer's encoder on (B, T, N)."""
    import torch

    tokens = _affine(series.transpose(1, 2), weights, "series_embedding")
    batch, count, width = tokens.shape
    for i in range(layers):
        layer = {name.split("/", 1)[1]: w for name, w in weights.items() if name.startswith(f"encoder_layer_{i}/")}
        split = _affine(tokens, layer, "projection").reshape(batch, count, 3, heads, width // heads)
        queries, keys, values = split.unbind(dim=2)
        scores = torch.einsum("bihe,bjhe->bhij", queries, keys) / (width // heads) ** 0.5
        mixed = torch.einsum("bhij,bjhe->bihe", scores.softmax(dim=-1), values).reshape(batch, count, width)
        tokens = _layer_norm(tokens + _affine(mixed, layer, "attention_output"), layer, "attention_normalization")
        hidden = torch.nn.functional.gelu(_affine(tokens, layer, "hidden"))
        tokens = _layer_norm(tokens + _affine(hidden, layer, "output_layer"), layer, "output_normalization")
    return _layer_norm(tokens, weights, "last_normalization")


def _normalize(series, scale, offset):
    mean = series.mean(dim=1, keepdim=True).detach()
    deviation = (series.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt().detach()
    return (series - mean) / deviation * scale + offset, mean, deviation


def _check(model, ours, theirs, weights, our_input, their_input) -> None:
    """Outputs to 1e-5; gradients of a weighted sum of them, of every weight and the input, to 1e-4 of the largest."""
    import torch

    got, want = ours.detach().numpy(), theirs.detach().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    direction = torch.tensor(np.random.default_rng(2).normal(size=got.shape).astype(np.float32))
    for weight in model.trainable_weights:
        weight.value.grad = None
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    pairs = {"input": (our_input.grad, their_input.grad)}
    for weight in model.trainable_weights:
        name = weight.path.split("/", 1)[1]
        pairs[name] = (weight.value.grad, weights[name].grad)
    for name, (got, want) in pairs.items():
        got, want = got.numpy(), want.numpy()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max() + 1e-6, err_msg=name)


def _inputs(*shape):
    import torch

    values = _series(*shape)
    return torch.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)


def test_reversible_instance_normalization():
    layer = ReversibleInstanceNormalization(name="layer")
    layer.build((None, STEPS, METRICS))
    _randomize(layer)
    weights = _copies(layer)
    our_input, their_input = _inputs(EXAMPLES, STEPS, METRICS)
    normalized, mean, deviation = layer(our_input)
    ours = layer.inverse(normalized[:, :HORIZON] ** 2, mean, deviation)
    scale, offset = weights["scale"], weights["offset"]
    wanted, their_mean, their_deviation = _normalize(their_input, scale, offset)
    np.testing.assert_allclose(normalized.detach().numpy(), wanted.detach().numpy(), rtol=1e-5, atol=1e-5)
    theirs = (wanted[:, :HORIZON] ** 2 - offset) / scale * their_deviation + their_mean
    _check(layer, ours, theirs, weights, our_input, their_input)


@pytest.mark.parametrize("steps", [STEPS, 2 * WIDTH], ids=["fewer steps than the width", "more"])
@pytest.mark.parametrize("training", [False, True])
def test_inverted_transformer(steps, training):
    layer = InvertedTransformer(WIDTH, layers=LAYERS, heads=HEADS, feed_forward_width=HIDDEN, dropout=0.0, name="layer")
    layer.build((None, steps, METRICS))
    _randomize(layer)
    weights = _copies(layer)
    our_input, their_input = _inputs(EXAMPLES, steps, METRICS)
    ours = layer(our_input / 10, training=training)
    _check(layer, ours, _encode(their_input / 10, weights), weights, our_input, their_input)


def test_inverted_transformer_with_covariates():
    """As in the authors' code: the covariates' series are tokens too, and only the metrics' come out."""
    import torch

    layer = InvertedTransformer(WIDTH, layers=LAYERS, heads=HEADS, feed_forward_width=HIDDEN, dropout=0.0, name="layer")
    layer.build((None, STEPS, METRICS))
    _randomize(layer)
    weights = _copies(layer)
    our_input, their_input = _inputs(EXAMPLES, STEPS, METRICS)
    covariates = torch.tensor(np.random.default_rng(3).normal(size=(EXAMPLES, STEPS, 2)).astype(np.float32))
    ours = layer(our_input / 10, covariates=covariates)
    theirs = _encode(torch.cat([their_input / 10, covariates], dim=-1), weights)[:, :METRICS]
    _check(layer, ours, theirs, weights, our_input, their_input)


def test_forecaster_from_end_to_end():
    steps = STEPS + HORIZON
    model = StatisticForecaster(HORIZON, WIDTH, LAYERS, HEADS, feed_forward_width=HIDDEN, dropout=0.0, name="model")
    model.build({"statistic_sequence": (None, steps, METRICS), "statistic_mask": (None, steps)})
    _randomize(model)
    weights = _copies(model)
    our_input, their_input = _inputs(EXAMPLES, steps, METRICS)
    ours, _ = model({"statistic_sequence": our_input, "statistic_mask": np.ones((EXAMPLES, steps), np.float32)})
    scale, offset = weights["normalization/scale"], weights["normalization/offset"]
    normalized, mean, deviation = _normalize(their_input[:, HORIZON:], scale, offset)
    encoder = {name.split("/", 1)[1]: weight for name, weight in weights.items() if name.startswith("encoder/")}
    projected = _affine(_encode(normalized, encoder), weights, "projection").transpose(1, 2)
    theirs = (projected - offset) / scale * deviation + mean
    _check(model, ours, theirs, weights, our_input, their_input)
