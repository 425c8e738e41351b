"""SemanticIdForecaster against a PyTorch module written from the equations, on whichever backend Keras runs."""

import numpy as np
import pytest
from keras import ops

from keras_models.semantic_id_forecaster import SemanticIdForecaster

from ..layers.layer_checks import gradients, to_numpy

torch = pytest.importorskip("torch", reason="needs PyTorch; run `make test-backends`")
functional = torch.nn.functional

CODES, WIDTH, HEADS, LONGEST, POSITIONS = 30, 16, 4, 5, 6


class _Sublayer(torch.nn.Module):
    """x + attention(norm(x), memory), then + FFN(norm(x)); self-attention where there is no memory."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attention_norm = torch.nn.RMSNorm(WIDTH, eps=1e-5)
        self.attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm = torch.nn.RMSNorm(WIDTH, eps=1e-5)
        self.inner = torch.nn.Linear(WIDTH, hidden)
        self.outer = torch.nn.Linear(hidden, WIDTH)

    def forward(self, x, padding, memory=None):
        query = self.attention_norm(x)
        memory = query if memory is None else memory
        x = x + self.attention(query, memory, memory, key_padding_mask=padding, need_weights=False)[0]
        return x + self.outer(functional.gelu(self.inner(self.norm(x))))


class _Reference(torch.nn.Module):
    """Equations 2 to 6 of the paper."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.codes = torch.nn.Embedding(CODES, WIDTH)
        self.lengths = torch.nn.Embedding(LONGEST + 1, WIDTH, padding_idx=0)
        self.positions = torch.nn.Embedding(POSITIONS, WIDTH)
        self.encoder = torch.nn.ModuleList([_Sublayer(hidden) for _ in range(2)])
        self.encoder_norm = torch.nn.RMSNorm(WIDTH, eps=1e-5)
        self.query = torch.nn.Parameter(torch.zeros(WIDTH))
        self.decoder = torch.nn.ModuleList([_Sublayer(hidden) for _ in range(2)])
        self.decoder_norm = torch.nn.RMSNorm(WIDTH, eps=1e-5)

    def forward(self, ids, runs):
        padding = ids < 0
        back = torch.arange(ids.shape[1]).flip(0).clamp(max=POSITIONS - 1)
        encoding = self.codes(ids.clamp(min=0)) + self.lengths(runs.clamp(max=LONGEST)) + self.positions(back)
        for layer in self.encoder:
            encoding = layer(encoding, padding)
        encoding = self.encoder_norm(encoding)
        prediction = self.query.expand(len(ids), 1, WIDTH)
        for layer in self.decoder:
            prediction = layer(prediction, padding, encoding)
        return encoding, self.decoder_norm(prediction)[:, 0]

    def loss(self, ids, runs, target):
        return functional.cross_entropy(self(ids, runs)[1] @ self.codes.weight.T, target)


def _pairs(ours: SemanticIdForecaster, theirs: _Reference):
    """Our variable, their parameter, and which part of it, transposed or not."""
    encoder, decoder = ours.encoder, ours.decoder
    yield encoder.code_table, theirs.codes.weight, slice(None), False
    yield encoder.run_length_embedding.embeddings, theirs.lengths.weight, slice(1, None), False
    yield encoder.position_table, theirs.positions.weight, slice(None), False
    yield encoder.last_normalization.scale, theirs.encoder_norm.weight, slice(None), False
    yield decoder.query, theirs.query, slice(None), False
    yield decoder.last_normalization.scale, theirs.decoder_norm.weight, slice(None), False
    everything = slice(None)
    for layer, other in zip(encoder.encoder_layers, theirs.encoder, strict=True):
        yield layer.projection.kernel, other.attention.in_proj_weight, everything, True
        yield layer.projection.bias, other.attention.in_proj_bias, everything, False
    for layer, other in zip(decoder.decoder_layers, theirs.decoder, strict=True):
        yield layer.query_projection.kernel, other.attention.in_proj_weight, slice(0, WIDTH), True
        yield layer.query_projection.bias, other.attention.in_proj_bias, slice(0, WIDTH), False
        yield layer.key_kernel, other.attention.in_proj_weight, slice(WIDTH, 2 * WIDTH), True
        yield layer.value_kernel, other.attention.in_proj_weight, slice(2 * WIDTH, None), True
    layers = [*encoder.encoder_layers, *decoder.decoder_layers]
    for layer, other in zip(layers, [*theirs.encoder, *theirs.decoder], strict=True):
        yield layer.normalization.scale, other.attention_norm.weight, everything, False
        yield layer.attention_output.kernel, other.attention.out_proj.weight, everything, True
        yield layer.attention_output.bias, other.attention.out_proj.bias, everything, False
        yield layer.feed_forward.normalization.scale, other.norm.weight, everything, False
        yield layer.feed_forward.hidden.kernel, other.inner.weight, everything, True
        yield layer.feed_forward.hidden.bias, other.inner.bias, everything, False
        yield layer.feed_forward.output_layer.kernel, other.outer.weight, everything, True
        yield layer.feed_forward.output_layer.bias, other.outer.bias, everything, False


def test_outputs_and_gradients_are_those_of_the_equations():
    generator = np.random.default_rng(0)
    ids = generator.integers(0, CODES, (20, 9))
    runs = generator.integers(1, 9, (20, 9))
    padding = np.arange(9) < generator.integers(0, 8, (20, 1))
    ids[padding], runs[padding] = -1, 0
    inputs = {"semantic_ids": ids, "run_lengths": runs}

    ours = SemanticIdForecaster(
        CODES, WIDTH, 2, 2, HEADS, feed_forward_width=24, max_run_length=LONGEST, positions=POSITIONS
    )
    ours.build({name: x.shape for name, x in inputs.items()})
    theirs = _Reference(24)
    torch.nn.init.zeros_(theirs.lengths.weight)
    torch.nn.init.zeros_(theirs.decoder[0].attention.in_proj_bias)
    torch.nn.init.zeros_(theirs.decoder[1].attention.in_proj_bias)
    pairs = list(_pairs(ours, theirs))
    assert len(pairs) == len(ours.trainable_variables)
    with torch.no_grad():
        for variable, parameter, part, transposed in pairs:
            value = generator.normal(size=variable.shape, scale=0.3).astype(np.float32)
            variable.assign(value)
            parameter[part] = torch.from_numpy(value.T if transposed else value)

    def as_torch(*arrays):
        return [torch.from_numpy(np.asarray(x, np.int64)) for x in arrays]

    encoding, prediction = theirs(*as_torch(ids, runs))
    encoding = encoding.detach().numpy() * ~padding[:, :, None]
    np.testing.assert_allclose(to_numpy(ours.encoder(ids, runs)), encoding, rtol=1e-5, atol=1e-5)
    content, decoded = to_numpy(ours(inputs))
    np.testing.assert_allclose(decoded, prediction.detach().numpy(), rtol=1e-5, atol=1e-5)
    entries = (~padding).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(content, encoding.sum(axis=1) / entries, rtol=1e-5, atol=1e-5)

    context_ids, context_runs, target, counts = to_numpy(ours.context_and_target(ids, runs))
    assert counts.sum() >= 15
    expected = theirs.loss(*as_torch(context_ids[counts], context_runs[counts], target[counts]))
    expected.backward()

    def loss():
        ours(inputs, training=True)
        return ops.sum(ours.losses[0])

    assert float(to_numpy(loss())) == pytest.approx(expected.item(), rel=1e-5)
    found = gradients(loss, [variable for variable, *_ in pairs])
    for (variable, parameter, part, transposed), got in zip(pairs, found, strict=True):
        want = parameter.grad[part].numpy()
        np.testing.assert_allclose(got, want.T if transposed else want, rtol=1e-4, atol=1e-4, err_msg=variable.path)
