import numpy as np
import pytest
from keras import ops

from keras_models.layers.multi_gate_mixture_of_experts import MultiGateMixtureOfExperts
from keras_models.layers.progressive_layered_extraction import ProgressiveLayeredExtraction

from .layer_checks import (
    check_jit,
    check_low_precision,
    check_output_shape,
    check_round_trips,
    gradients,
    to_numpy,
)

INPUTS = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def _by_name(layer):
    return {weight.path.split("/", 1)[1]: weight for weight in layer.weights}


def _small(levels: int) -> ProgressiveLayeredExtraction:
    """Two tasks with one expert each and one shared expert, all of them one number times the input; gates of zeros."""
    layer = ProgressiveLayeredExtraction(2, 1, 1, expert_units=(1,), levels=levels, activation=None)
    layer.build((None, 1))
    for weight in layer.weights:
        weight.assign(np.zeros(weight.shape))
    weights = _by_name(layer)
    weights["level_1/first_expert_layer/kernel"].assign([[1, 10, 100]])
    if levels == 2:
        weights["level_2/first_task_layer/kernel"].assign([[[1]], [[2]]])
        weights["level_2/first_shared_layer/kernel"].assign([[3]])
    return layer


def test_one_level_by_hand():
    layer = _small(levels=1)
    # experts 2, 20 and 200
    np.testing.assert_allclose(to_numpy(layer(np.array([[2.0]]))), [[[101], [110]]])
    gates = np.zeros((1, 4))
    gates[0, 0] = np.log(3) / 2  # task 0 has 3/4 of its own expert for the input 2
    _by_name(layer)["level_1/gates/kernel"].assign(gates)
    np.testing.assert_allclose(to_numpy(layer(np.array([[2.0]]))), [[[51.5], [110]]], rtol=1e-6)


def test_two_levels_by_hand():
    layer = _small(levels=2)
    gates = np.zeros((1, 7))
    gates[0, 0] = np.log(3) / 2
    _by_name(layer)["level_1/gates/kernel"].assign(gates)
    # Streams after level 1: 51.5, 110 and (2 + 20 + 200) / 3 = 74. Experts of level 2: 51.5, 220 and 222.
    np.testing.assert_allclose(to_numpy(layer(np.array([[2.0]]))), [[[136.75], [221]]], rtol=1e-6)


def test_counts_of_weights():
    layer = ProgressiveLayeredExtraction(2, task_experts=3, shared_experts=4, expert_units=(64, 32), levels=2)
    layer.build((None, 100))
    experts, own_gates, shared_gate = 2 * 3 + 4, 2 * (3 + 4), 2 * 3 + 4
    first = experts * (100 * 64 + 64 + 64 * 32 + 32) + 100 * (own_gates + shared_gate)
    last = experts * (32 * 64 + 64 + 64 * 32 + 32) + 32 * own_gates
    assert layer.count_params() == first + last


def test_one_level_of_shared_experts_is_a_multi_gate_mixture():
    layer = ProgressiveLayeredExtraction(3, task_experts=0, shared_experts=4, expert_units=(8, 5))
    mixture = MultiGateMixtureOfExperts(3, experts=4, expert_units=(8, 5))
    got, _ = layer(INPUTS), mixture(INPUTS)
    weights = _by_name(layer)
    for name, weight in _by_name(mixture).items():
        weight.assign(weights[f"level_1/{name}"])
    np.testing.assert_allclose(to_numpy(got), to_numpy(mixture(INPUTS)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("levels", [1, 2])
def test_experts_of_one_task_learn_nothing_from_another(levels):
    layer = ProgressiveLayeredExtraction(3, 2, 1, expert_units=(4, 5), levels=levels)
    layer(INPUTS)
    weights = _by_name(layer)
    if levels == 1:  # (F, E x 4), two experts a task
        first = "level_1/first_expert_layer/kernel"
        by_task = np.split(_gradient_of_task_0(layer, weights[first])[:, : 3 * 2 * 4], 3, axis=1)
    else:  # (K, U, 2 x 4)
        by_task = _gradient_of_task_0(layer, weights["level_2/first_task_layer/kernel"])
    assert np.abs(by_task[0]).max() > 0
    np.testing.assert_array_equal(by_task[1], 0)
    np.testing.assert_array_equal(by_task[2], 0)

    second = _gradient_of_task_0(layer, weights[f"level_{levels}/expert_layer_1/kernel"])  # (E, 4, 5)
    assert np.abs(second[:2]).max() > 0
    assert np.abs(second[6:]).max() > 0
    np.testing.assert_array_equal(second[2:6], 0)


def _gradient_of_task_0(layer, weight):
    return gradients(lambda: ops.sum(layer(INPUTS)[:, 0]), [weight])[0]


def test_a_broken_expert_of_one_task_does_not_reach_another():
    layer = ProgressiveLayeredExtraction(2, 1, 1, expert_units=(4,))
    expected = to_numpy(layer(INPUTS))
    kernel = _by_name(layer)["level_1/first_expert_layer/kernel"]
    kernel.assign(np.where(np.arange(12) // 4 == 1, np.nan, to_numpy(kernel)))  # the second task's own
    got = to_numpy(layer(INPUTS))
    np.testing.assert_array_equal(got[:, 0], expected[:, 0])
    assert np.isnan(got[:, 1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_stays_in_its_row(value):
    layer = ProgressiveLayeredExtraction(2, levels=2)
    expected = to_numpy(layer(INPUTS))
    inputs = INPUTS.copy()
    inputs[1, 2] = value
    got = to_numpy(layer(inputs))
    assert not np.isfinite(got[1]).all()
    others = [0, 2, 3, 4]
    np.testing.assert_allclose(got[others], expected[others], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "arguments", [{}, {"levels": 2}, {"levels": 3, "task_experts": 0}, {"levels": 2, "shared_experts": 3}]
)
def test_is_a_well_behaved_layer(arguments, tmp_path):
    def build(policy=None):
        return ProgressiveLayeredExtraction(3, expert_units=(8, 5), activation="gelu", dtype=policy, **arguments)

    check_round_trips(build(), INPUTS, tmp_path=tmp_path)
    check_output_shape(build(), INPUTS)
    check_jit(build(), INPUTS)
    check_low_precision(build, INPUTS)


def test_works_with_one_layer_experts_and_empty_batches():
    for levels in (1, 2):
        layer = ProgressiveLayeredExtraction(2, expert_units=(4,), levels=levels)
        assert tuple(layer(INPUTS).shape) == (5, 2, 4)
        assert tuple(layer(INPUTS[:0]).shape) == (0, 2, 4)


@pytest.mark.parametrize(
    "arguments",
    [{"tasks": 0}, {"shared_experts": 0}, {"task_experts": -1}, {"levels": 0}, {"expert_units": ()},
     {"expert_units": (4, 0)}],
)  # fmt: skip
def test_rejects_sizes_that_make_no_sense(arguments):
    with pytest.raises(ValueError, match="must be at least 1 and task_experts at least 0, got tasks="):
        ProgressiveLayeredExtraction(**{"tasks": 1, **arguments})


def test_rejects_wrong_shapes():
    layer = ProgressiveLayeredExtraction(2)
    with pytest.raises(ValueError, match=r"inputs of shape \(batch, width\), got \(5, 6, 1\)"):
        layer(INPUTS[:, :, None])
    layer(INPUTS)
    with pytest.raises(ValueError, match=r"expected axis -1 of input shape to have value 6, .* shape \(5, 4\)"):
        layer(INPUTS[:, :4])
