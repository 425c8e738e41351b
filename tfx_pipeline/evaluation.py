"""Figures of a candidate, and of a baseline on the same rows, from scored examples. Numpy only."""

import math
from typing import Any

import numpy as np

from keras_models.metrics import Interval, bootstrap, grouped_auc, paired_bootstrap
from tfx_pipeline.config import METRICS
from tfx_pipeline.predictions import Predictions


def evaluate(predictions: Predictions, *, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Task -> figures, in JSON's types; None stands for a figure that isn't defined (one class only, say).

    Each task counts the rows whose label is known. Its figures: `rows`, `positives`, `users`, `users_left_out` (users
    with one class only), `finite` (whether the candidate's scores are all finite numbers), `auc`, `gauc`, `uauc`,
    `interval` -> metric -> [low, high] (95 %, bootstrap over users) and, where the predictions have scores of a
    baseline, `baseline` -> metric -> figure and `difference` -> metric -> {"value", "low", "high"} of candidate minus
    baseline (paired bootstrap).

    Args:
        predictions: With scores of "candidate" and maybe "baseline".
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    return {task: _task(predictions, task, resamples, seed) for task in predictions.tasks}


def _task(predictions: Predictions, task: str, resamples: int, seed: int) -> dict[str, Any]:
    rows = predictions.masks[task]
    users, labels = predictions.user_id[rows], predictions.labels[task][rows]
    scores = {name: by_task[task][rows] for name, by_task in predictions.scores.items()}
    figures: dict[str, Any] = {"rows": len(labels), "positives": int(labels.sum())}
    figures["finite"] = bool(np.isfinite(scores["candidate"]).all())
    if not figures["finite"] or not len(labels):
        return {**figures, "users": len(np.unique(users)), "users_left_out": None, **dict.fromkeys(METRICS)}
    grouped = grouped_auc(users, labels, scores["candidate"])
    figures |= {"users": grouped.users, "users_left_out": grouped.users_left_out}
    figures |= {metric: _number(getattr(grouped, metric)) for metric in METRICS}
    intervals = bootstrap(users, labels, scores["candidate"], resamples=resamples, seed=seed)
    figures["interval"] = {metric: [_number(i.low), _number(i.high)] for metric, i in intervals.items()}
    if "baseline" in scores:
        baseline = grouped_auc(users, labels, scores["baseline"])
        figures["baseline"] = {metric: _number(getattr(baseline, metric)) for metric in METRICS}
        difference = paired_bootstrap(
            users, labels, scores["candidate"], scores["baseline"], resamples=resamples, seed=seed
        )
        figures["difference"] = {metric: _as_json(interval) for metric, interval in difference.items()}
    return figures


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _as_json(interval: Interval) -> dict[str, float | None]:
    return {"value": _number(interval.value), "low": _number(interval.low), "high": _number(interval.high)}
