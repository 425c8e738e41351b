"""A run on two spans, the second of which was compared with the first."""

import math
from typing import Any

import pytest

FIGURES = {
    1: {"ctr": (0.8111, 0.6222, 0.6333), "gtr": (0.9644, None, math.nan)},
    2: {"ctr": (0.8155, 0.6266, 0.6377), "gtr": (0.9688, 0.7099, 0.7011)},
}
METRICS = ("auc", "gauc", "uauc")


@pytest.fixture
def summary() -> dict[str, Any]:
    return {
        "spans": [
            {
                "span": span,
                "version": span,
                "decision": "blessed",
                "reasons": [f"reason of span {span}"],
                "tasks": {
                    task: {**dict(zip(METRICS, values, strict=True)), "users_left_out": 1234}
                    for task, values in tasks.items()
                },
                "forecast_mse": {"model": 30.0, "mean": 40.0, "latest": 50.0},
                "semantic_id_hits": {
                    "model": {"hit@1": 0.61, "hit@10": 0.91},
                    "last": {"hit@1": 0.525, "hit@10": 0.82},
                    "most_frequent": {"hit@1": 0.41, "hit@10": 0.83},
                    "largest_weight": {"hit@1": 0.31, "hit@10": 0.84},
                },
                "product_hits": {"model": 0.25, "model_at_10": 0.75, "most_frequent": 0.3, "latest": 0.125},
            }
            for span, tasks in FIGURES.items()
        ],
        "stages": [{"name": "simulate", "seconds": 11.2}, {"name": "span 1: Trainer", "seconds": 75.0}],
        "wall_seconds": 297.4,
        "peak_rss_mb": 2934.2,
        "codebook": {
            "version": "0123456789ab",
            "codes": 256,
            "codes_used": 250,
            "perplexity": 181.26,
            "mse": 0.04321,
            "trained_on": 10_301,
        },
        "drift": {
            "segments": [10_301, 12_302],
            "jensen_shannon_bits": 0.0123,
            "population_stability_index": 0.1234,
            "noise": 0.0456,
        },
        "rank": [
            {"version": 1, "user_id": 42, "rooms": _rooms(101, 102, 103, 104)},
            {"version": 2, "user_id": 42, "rooms": _rooms(103, 101, 102, 105)},
        ],
    }


@pytest.fixture
def details() -> dict[str, Any]:
    interval = {metric: {"value": 0.004, "low": 0.001, "high": 0.007} for metric in METRICS}
    return {
        "spans": [
            {
                "span": span,
                "begin_ms": 1_746_057_600_000 + (span - 1) * 21_600_000,
                "end_ms": 1_746_057_600_000 + span * 21_600_000,
                "train": 20_000,
                "eval": 5_000,
                "notes": [f"note of span {span}"],
                "intervals": {
                    task: {
                        metric: [value - 0.01, value + 0.01] if value is not None and value > 0 else [None, None]
                        for metric, value in zip(METRICS, values, strict=True)
                    }
                    for task, values in tasks.items()
                },
                "difference": {"ctr": interval} if span == 2 else {},
                "rates": {"ctr": 0.2134, "gtr": 0.0031},
                "tasks_described": {"ctr": "the user entered the room", "gtr": "sent a gift"},
                "forecasts": [
                    {"live_id": 101, "metric": "like", "past": [1, 2, None, 4], "forecast": [4.5, 5], "actual": [5, 6]}
                ],
            }
            for span, tasks in FIGURES.items()
        ],
        "machine": {"processor": "2 cores"},
        "source": "simulated day, preset demo, seed 0",
    }


def _rooms(*live_ids: int) -> list[dict[str, Any]]:
    return [
        {"live_id": live_id, "scores": {"ctr": 0.5 - place / 10, "gtr": 0.01}} for place, live_id in enumerate(live_ids)
    ]
