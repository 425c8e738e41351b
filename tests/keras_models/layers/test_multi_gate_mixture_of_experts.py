import numpy as np
import pytest

from keras_models.layers.multi_gate_mixture_of_experts import MultiGateMixtureOfExperts

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips, to_numpy

INPUTS = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def test_equals_the_published_formulas():
    tasks, experts = 3, 2
    layer = MultiGateMixtureOfExperts(tasks, experts, expert_units=(4, 7))
    got = to_numpy(layer(INPUTS))
    weights = {weight.path.split("/", 1)[1]: to_numpy(weight) for weight in layer.weights}

    outputs = []
    for i in range(experts):
        first = weights["first_expert_layer/kernel"][:, i * 4 : (i + 1) * 4]
        bias = weights["first_expert_layer/bias"][i * 4 : (i + 1) * 4]
        hidden = np.maximum(INPUTS @ first + bias, 0)
        outputs.append(np.maximum(hidden @ weights["expert_layer_1/kernel"][i] + weights["expert_layer_1/bias"][i], 0))
    for k in range(tasks):
        gate = np.exp(INPUTS @ weights["gates/kernel"][:, k * experts : (k + 1) * experts])
        gate /= gate.sum(axis=1, keepdims=True)
        want = sum(gate[:, i : i + 1] * outputs[i] for i in range(experts))
        np.testing.assert_allclose(got[:, k], want, rtol=1e-4, atol=1e-5)


def test_counts_of_weights():
    layer = MultiGateMixtureOfExperts(tasks=2, experts=8, expert_units=(64, 32))
    layer.build((None, 100))
    experts = 8 * (100 * 64 + 64 + 64 * 32 + 32)
    assert layer.count_params() == experts + 2 * 100 * 8


def test_one_expert_is_a_shared_bottom():
    layer = MultiGateMixtureOfExperts(tasks=3, experts=1, expert_units=(8, 5))
    got = to_numpy(layer(INPUTS))
    assert layer.count_params() == 6 * 8 + 8 + 8 * 5 + 5
    kernel, bias, *second = (to_numpy(weight) for weight in layer.weights)
    want = np.maximum(np.maximum(INPUTS @ kernel + bias, 0) @ second[0][0] + second[1][0], 0)
    for k in range(3):
        np.testing.assert_allclose(got[:, k], want, rtol=1e-4, atol=1e-5)


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(MultiGateMixtureOfExperts(3, 2, (8, 4, 5), activation="gelu"), INPUTS, tmp_path=tmp_path)
    check_output_shape(MultiGateMixtureOfExperts(3), INPUTS)
    check_output_shape(MultiGateMixtureOfExperts(3, experts=1), INPUTS)
    check_jit(MultiGateMixtureOfExperts(3), INPUTS)
    check_low_precision(lambda policy: MultiGateMixtureOfExperts(3, dtype=policy), INPUTS)


def test_works_with_one_layer_experts_and_empty_batches():
    layer = MultiGateMixtureOfExperts(2, 3, expert_units=(4,))
    assert layer(INPUTS).shape == (5, 2, 4)
    assert layer(INPUTS[:0]).shape == (0, 2, 4)


@pytest.mark.parametrize("arguments", [{"tasks": 0}, {"tasks": 1, "experts": 0}, {"tasks": 1, "expert_units": ()}])
def test_rejects_empty_sizes(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        MultiGateMixtureOfExperts(**arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_stays_in_its_row(value):
    layer = MultiGateMixtureOfExperts(2, 3, expert_units=(4, 5))
    expected = to_numpy(layer(INPUTS))
    inputs = INPUTS.copy()
    inputs[1, 2] = value
    got = to_numpy(layer(inputs))
    assert not np.isfinite(got[1]).all()
    others = [0, 2, 3, 4]
    np.testing.assert_allclose(got[others], expected[others], rtol=1e-5, atol=1e-6)


def test_rejects_wrong_shapes():
    layer = MultiGateMixtureOfExperts(2)
    with pytest.raises(ValueError, match=r"inputs of shape \(batch, width\), got \(5, 6, 1\)"):
        layer(INPUTS[:, :, None])
    layer(INPUTS)
    with pytest.raises(ValueError, match=r"expected axis -1 of input shape to have value 6, .* shape \(5, 4\)"):
        layer(INPUTS[:, :4])
