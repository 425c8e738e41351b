import numpy as np
import pytest

from benchmarks import layers


def test_sides_hold_the_live_shapes_parameters():
    count = sum(value.size for value in layers.weights(np.random.default_rng(0)).values())
    assert count == 52_229 + 2 * layers.METRICS


def test_ratios_are_of_the_best_variants_round_by_round():
    def rounds(*seconds):
        return {"cpu": [[s, s, 9.0] for s in seconds]}

    times = {
        "step ours, a": rounds(2.0, 4.0, 2.0),
        "step ours, b": rounds(3.0, 3.0, 3.0),
        "step PyTorch, a": rounds(8.0, 8.0, 8.0),
        "step PyTorch, b": rounds(6.0, 7.0, 6.0),
        "forward ours, a": rounds(1.0, 1.0, 1.0),
    }
    assert layers._ratios(times, "step", "cpu", faster=True) == [3.0, 7 / 4, 3.0]
    assert layers._ratios(times, "step", "cpu", faster=False) == [1 / 3, 4 / 7, 1 / 3]


def test_variants_that_differ_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERS_REFERENCE", str(tmp_path / "reference.npz"))
    forecast, gradients = np.array([1.0, 2.0]), {"0/hidden/kernel": np.array([[4.0]])}
    layers.check("first", forecast, gradients)
    layers.check("second", forecast + 1e-5, gradients)
    with pytest.raises(ValueError, match=r"third: forecast differs by 5\.0e-04 of its largest value, allowed 1e-05"):
        layers.check("third", forecast + 1e-3, gradients)
    with pytest.raises(ValueError, match=r"fourth: 0/hidden/kernel differs by 2\.5e-02"):
        layers.check("fourth", forecast, {"0/hidden/kernel": np.array([[4.1]])})
