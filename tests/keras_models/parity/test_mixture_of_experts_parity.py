"""The mixtures against their papers' equations, written out twice: in numpy, and in PyTorch, gradients too.

Both are written expert by expert. `_mixture_parts` and `_extraction_parts` take our fused arrays apart, be they weights
or gradients: experts[g][i] is a list of (kernel, bias), g counting the tasks and then the shared experts.
"""

import importlib.util

import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.multi_gate_mixture_of_experts import MultiGateMixtureOfExperts
from keras_models.layers.progressive_layered_extraction import ProgressiveLayeredExtraction

from ..layers.layer_checks import gradients, to_numpy

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch isn't installed here; run it with `make test-backends`"
)

TASKS, UNITS = 3, (16, 8)
INPUTS = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32)
UPSTREAM = np.random.default_rng(1).normal(size=(64, TASKS, UNITS[-1])).astype(np.float32)

# levels, experts of each task's own, shared experts
EXTRACTIONS = [(1, 2, 3), (2, 2, 3), (3, 1, 1), (2, 0, 2)]


def _randomised(layer):
    """Built, with biases and gates that matter."""
    layer.build(INPUTS.shape)
    generator = np.random.default_rng(2)
    layer.set_weights([generator.normal(size=w.shape, scale=w.shape[-2] ** -0.5) if len(w.shape) > 1
                       else generator.normal(size=w.shape, scale=0.5) for w in layer.weights])  # fmt: skip
    return layer


def _extraction(levels, own, shared):
    return _randomised(ProgressiveLayeredExtraction(TASKS, own, shared, UNITS, levels))


def _by_name(layer, arrays=None):
    arrays = arrays if arrays is not None else to_numpy(layer.get_weights())
    return dict(zip((weight.path.split("/", 1)[1] for weight in layer.weights), arrays, strict=True))


def _mixture_parts(arrays, experts):
    kernels = np.split(arrays["first_expert_layer/kernel"], experts, axis=1)
    biases = np.split(arrays["first_expert_layer/bias"], experts)
    second = arrays["expert_layer_1/kernel"], arrays["expert_layer_1/bias"]
    parts = [[(kernels[i], biases[i]), (second[0][i], second[1][i])] for i in range(experts)]
    return parts, np.split(arrays["gates/kernel"], TASKS, axis=1)


def _extraction_parts(arrays, levels, own, shared):
    """One (experts by group, gates of the tasks and, but at the last level, the shared one) for each level."""
    result = []
    for level in range(1, levels + 1):
        here = {name.split("/", 1)[1]: value for name, value in arrays.items() if name.startswith(f"level_{level}/")}
        count = TASKS * own + shared
        if level == 1:
            kernels = np.split(here["first_expert_layer/kernel"], count, axis=1)
            biases = np.split(here["first_expert_layer/bias"], count)
            gates = list(np.split(here["gates/kernel"][:, : TASKS * (own + shared)], TASKS, axis=1))
            gates += [here["gates/kernel"][:, TASKS * (own + shared) :]]
        else:
            kernels = np.split(here["first_shared_layer/kernel"], shared, axis=1)
            biases = np.split(here["first_shared_layer/bias"], shared)
            if own:
                by_task = here["first_task_layer/kernel"], here["first_task_layer/bias"]
                kernels = [k for task in by_task[0] for k in np.split(task, own, axis=1)] + kernels
                biases = [b for task in by_task[1] for b in np.split(task, own)] + biases
            gates = [*here["task_gates/kernel"], here.get("shared_gate/kernel")]
        experts = [
            [(kernels[i], biases[i]), (here["expert_layer_1/kernel"][i], here["expert_layer_1/bias"][i])]
            for i in range(count)
        ]
        groups = [experts[k * own : (k + 1) * own] for k in range(TASKS)] + [experts[TASKS * own :]]
        result.append((groups, gates[:TASKS] if level == levels else gates))
    return result


def _expert(x, layers):
    for kernel, bias in layers:
        x = np.maximum(x @ kernel + bias, 0)
    return x


def _gated(x, gate, outputs):
    weights = np.exp(x @ gate - (x @ gate).max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return sum(weights[:, i : i + 1] * outputs[i] for i in range(len(outputs)))


def test_mixture_equals_numpy():
    layer = _randomised(MultiGateMixtureOfExperts(TASKS, 4, UNITS))
    experts, gates = _mixture_parts(_by_name(layer), 4)
    x = INPUTS.astype(np.float64)
    want = np.stack([_gated(x, gate, [_expert(x, e) for e in experts]) for gate in gates], axis=1)
    np.testing.assert_allclose(to_numpy(layer(INPUTS)), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("levels", "own", "shared"), EXTRACTIONS)
def test_extraction_equals_numpy(levels, own, shared):
    layer = _extraction(levels, own, shared)
    streams = [INPUTS.astype(np.float64)] * (TASKS + 1)
    for groups, gates in _extraction_parts(_by_name(layer), levels, own, shared):
        outputs = [[_expert(x, e) for e in group] for x, group in zip(streams, groups, strict=True)]
        mixed = [_gated(streams[k], gates[k], outputs[k] + outputs[TASKS]) for k in range(TASKS)]
        if len(gates) > TASKS:
            mixed.append(_gated(streams[TASKS], gates[TASKS], [y for group in outputs for y in group]))
        streams = mixed
    np.testing.assert_allclose(to_numpy(layer(INPUTS)), np.stack(streams, axis=1), rtol=1e-5, atol=1e-5)


def _ours(layer):
    """Outputs, gradients of the weights by name, gradient of the inputs."""
    inputs = keras.Variable(INPUTS)
    found = gradients(
        lambda: ops.sum(ops.multiply(layer(ops.convert_to_tensor(inputs)), UPSTREAM)),
        [*layer.trainable_variables, inputs],
    )
    assert len(layer.trainable_variables) == len(layer.weights)
    return to_numpy(layer(INPUTS)), _by_name(layer, found[:-1]), found[-1]


def _compare(ours, theirs):
    """Nested lists and tuples of arrays, of one structure."""
    got, want = keras.tree.flatten(ours), keras.tree.flatten(theirs)
    assert len(got) == len(want) > 0
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


class _Torch:
    """The equations in PyTorch, over leaves that hold our weights."""

    def __init__(self, parts):
        import torch

        self.torch = torch
        self.leaves = keras.tree.map_structure(lambda array: torch.tensor(array, requires_grad=True), parts)
        self.inputs = torch.tensor(INPUTS, requires_grad=True)

    def expert(self, x, layers):
        for kernel, bias in layers:
            x = self.torch.relu(self.torch.nn.functional.linear(x, kernel.T, bias))
        return x

    def gated(self, x, gate, outputs):
        weights = self.torch.softmax(x @ gate, dim=1)
        return self.torch.einsum("be,beu->bu", weights, self.torch.stack(outputs, dim=1))

    def results(self, outputs):
        """Outputs, gradients of the leaves, gradient of the inputs."""
        (outputs * self.torch.tensor(UPSTREAM)).sum().backward()
        found = keras.tree.map_structure(lambda leaf: leaf.grad.numpy(), self.leaves)
        return outputs.detach().numpy(), found, self.inputs.grad.numpy()


@needs_torch
def test_mixture_equals_torch_with_its_gradients():
    layer = _randomised(MultiGateMixtureOfExperts(TASKS, 4, UNITS))
    theirs = _Torch(_mixture_parts(_by_name(layer), 4))
    experts, gates = theirs.leaves
    x = theirs.inputs
    outputs, parts, inputs = theirs.results(
        theirs.torch.stack([theirs.gated(x, gate, [theirs.expert(x, e) for e in experts]) for gate in gates], dim=1)
    )
    got, got_gradients, got_inputs = _ours(layer)
    np.testing.assert_allclose(got, outputs, rtol=1e-5, atol=1e-5)
    _compare(_mixture_parts(got_gradients, 4), parts)
    _compare([got_inputs], [inputs])


@needs_torch
@pytest.mark.parametrize(("levels", "own", "shared"), EXTRACTIONS)
def test_extraction_equals_torch_with_its_gradients(levels, own, shared):
    layer = _extraction(levels, own, shared)
    theirs = _Torch(_extraction_parts(_by_name(layer), levels, own, shared))
    streams = [theirs.inputs] * (TASKS + 1)
    for groups, gates in theirs.leaves:
        shared_outputs = [theirs.expert(streams[TASKS], e) for e in groups[TASKS]]
        own_outputs = [[theirs.expert(streams[k], e) for e in groups[k]] for k in range(TASKS)]
        mixed = [theirs.gated(streams[k], gates[k], own_outputs[k] + shared_outputs) for k in range(TASKS)]
        if len(gates) > TASKS:
            every = [y for outputs in own_outputs for y in outputs] + shared_outputs
            mixed.append(theirs.gated(streams[TASKS], gates[TASKS], every))
        streams = mixed
    outputs, parts, inputs = theirs.results(theirs.torch.stack(streams, dim=1))
    got, got_gradients, got_inputs = _ours(layer)
    np.testing.assert_allclose(got, outputs, rtol=1e-5, atol=1e-5)
    _compare(_extraction_parts(got_gradients, levels, own, shared), parts)
    _compare([got_inputs], [inputs])
