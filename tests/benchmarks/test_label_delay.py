import click
import numpy as np
import pytest

from beam_transforms.schema import WINDOW_MS
from benchmarks import label_delay

TASKS = label_delay.TASKS


def _examples(rows, label=0.0):
    ones = np.ones((rows, len(TASKS)), np.float32)
    return {"user_id": np.arange(rows), "label": label * ones, "label_mask": ones, "label_weight": ones}


class _Learner:
    """Scores with the number of windows that it has learned."""

    def __init__(self):
        self.keys = []

    def score(self, examples):
        return {task: np.full(len(examples["user_id"]), len(self.keys)) for task in TASKS}

    def train(self, examples, key):
        self.keys.append(key)


def test_a_window_is_scored_then_learned_then_answered_for():
    learner = _Learner()
    asked, arriving = {4: _examples(1), 5: _examples(2), 7: _examples(1)}, {5: _examples(3), 6: _examples(1)}
    scored = label_delay._follow(learner, asked, arriving, range(4, 8))
    validated = {number: window.scores.tolist() for number, window in scored["validated"].items()}
    assert validated == {5: [[0] * 3] * 3, 6: [[1] * 3]}
    assert {number: window.scores[:, 0].tolist() for number, window in scored["served"].items()} == {
        4: [0], 5: [1, 1], 7: [2],
    }  # fmt: skip
    assert learner.keys == [5 * WINDOW_MS, 6 * WINDOW_MS]


def test_figures_are_those_of_the_windows_asked_for():
    scored = label_delay._follow(_Learner(), {n: _examples(1, label=n % 2) for n in range(4)}, {}, range(4))["served"]
    found = label_delay._of(scored, range(1, 9))
    assert [(task, of_task["rows"], of_task["positives"]) for task, of_task in found.items()] == [
        (task, 3, 2) for task in TASKS
    ]
    assert label_delay._of(scored, range(7, 9)) == {}


def test_labels_are_there_at_the_next_window_after_the_lateness():
    known_ms = {"emitted_ms": 3 * WINDOW_MS + np.array([-5_001, -5_000, -4_999, 24_999, 25_001])}
    assert label_delay._arrived(known_ms).tolist() == [3, 3, 4, 4, 5]
    by_window = label_delay._by_window(known_ms, np.array([4, 3, 4, 7, 3]))
    assert {number: (rows["emitted_ms"] - 3 * WINDOW_MS).tolist() for number, rows in by_window.items()} == {
        3: [-5_000, 25_001], 4: [-5_001, -4_999], 7: [24_999],
    }  # fmt: skip


def test_delays_are_of_known_labels():
    found = label_delay._delays(
        {
            "timestamp_ms": np.array([0, 1_000, 2_000, 3_000]),
            "emitted_ms": np.array([5_000, 7_000, 302_000, 900_000]),
            "label": np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]),
            "label_mask": np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]]),
        }
    )
    positive, negative = ({task: found[f"{task}: {name}"] for task in TASKS} for name in label_delay._DELAYS)
    assert positive == {"ctr": 5.5, "evtr": 300, "ltr": pytest.approx(np.nan, nan_ok=True)}
    assert negative == {"ctr": 300, "evtr": 5.5, "ltr": 897}


def test_figures_that_are_not_defined_are_an_error():
    label_delay._require_defined({"one": 0.0})
    with pytest.raises(click.ClickException, match=r"2 figures aren't defined, such as 'two'.*more users or hours"):
        label_delay._require_defined({"one": 0.5, "two": None, "three": float("nan")})


@pytest.mark.slow
def test_the_whole_bench_runs_on_a_small_platform():
    """Too few hours for the models to come to harm: what delays the policies have, and who learns."""
    result = label_delay.run(users=600, authors=60, base_hours=1, hours=1)
    assert [goal["met"] for goal in result["goals"]] == [True] * 3
    found = {figure["name"]: figure["value"] for figure in result["figures"]}
    policies = ("default", "fast_window 300 s", "first_only", "sliver")
    assert len(found) == 3 * 3 + len(policies) * 3 * (2 + 3 + 3)
    positive, negative = (
        {policy: found[f"{policy}, ctr: {name}"] for policy in policies} for name in label_delay._DELAYS
    )
    assert positive == {"default": 30, "fast_window 300 s": 300, "first_only": 0.001, "sliver": 30}
    assert negative == {"default": 30, "fast_window 300 s": 300, "first_only": 300, "sliver": 300}
    served = {policy: found[f"{policy}, ctr: served log loss"] for policy in ("none", *policies)}
    assert len(set(served.values())) == 5
    (hours,) = result["by_hour"]
    assert {policy for policy, of_policy in hours.items() if "validated" in of_policy} == set(policies)
    # All are judged by the same impressions and labels.
    assert len({(h["served"][0]["ctr"]["rows"], h["served"][0]["ctr"]["positives"]) for h in hours.values()}) == 1
