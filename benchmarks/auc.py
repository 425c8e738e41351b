"""Exact AUC, GAUC and UAUC of a day's evaluation: 1,000,000 rows of 50,000 users."""

import time
from typing import Any

import numpy as np

from benchmarks.harness import goal, report
from keras_models.metrics import grouped_auc

_RUNS = 7


def run() -> dict[str, Any]:
    """CPU seconds of `metrics.grouped_auc`, with scores that are all different and with scores of two digits."""
    return report("auc", [_goal("distinct scores", None), _goal("scores of two digits", 2)], "numpy")


def _goal(name: str, digits: int | None) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    users = generator.integers(0, 50_000, 1_000_000)
    scores = generator.random(1_000_000)
    labels = generator.random(1_000_000) < scores
    scores = scores if digits is None else scores.round(digits)
    samples = []
    for _ in range(_RUNS):
        begin = time.process_time()
        grouped_auc(users, labels, scores)
        samples.append(time.process_time() - begin)
    return goal(f"CPU seconds for 1,000,000 rows of 50,000 users, {name}", samples, "<=", 1.0)
