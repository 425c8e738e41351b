import importlib.util

import click
import pytest

from benchmarks import mixture_step


def _samples(**faster: float) -> dict[str, list[float]]:
    names = mixture_step.OURS + mixture_step.PEERS
    return {name: [faster.get(name.replace(" ", "_"), 1.0) * x for x in (10.0, 20.0, 40.0)] for name in names}


def test_goals_are_ratios_of_the_best_round_by_round():
    samples = _samples(ours_jax=3.0, ours_tensorflow_xla=2.8, torch_batched_eager=2.0)
    samples["torch batched eager"][2] = 100.0
    best, tensorflow = mixture_step._goals(samples)
    assert best["name"].endswith("ours jax / torch batched eager")
    assert (best["value"], best["low"], best["runs"], best["met"]) == (1.5, 1.2, 3, True)
    assert tensorflow["name"].endswith("ours tensorflow xla / torch batched eager")
    assert tensorflow["value"] == pytest.approx(1.4)


def test_one_goal_where_tensorflow_is_the_best():
    (only,) = mixture_step._goals(_samples(ours_tensorflow_graph=1.2))
    assert not only["met"]


@pytest.mark.skipif(
    all(importlib.util.find_spec(name) for name in ("jax", "torch", "deepctr")), reason="the peers are installed here"
)
def test_says_where_to_run_it():
    with pytest.raises(click.UsageError, match=r"not installed here; run this with .venv-backends"):
        mixture_step.run(rounds=1)
