"""How well a ranker's forecasters forecast, on examples that they weren't trained on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from beam_transforms.schema import WINDOW_MS, RankingSchema
from keras_models.ranker import LiveRanker
from keras_models.statistic_forecaster import StatisticForecaster
from tfx_pipeline.example_dataset import example_batches


def forecast_accuracy(ranker: LiveRanker, files: Sequence[str], schema: RankingSchema) -> dict[str, Any]:
    """Errors and hit rates over examples, each room and window counted once however many saw it.

    Returns:
        "forecast_mse": {"model", "mean", "latest"}; "semantic_id_hits": what `SemanticIdForecaster.hit_rates` returns;
        "product_hits": what `ProductForecaster.hit_rates` returns. Each is None without such a forecaster.
    """
    foresight = ranker.foresight if ranker.config.foresight_size else None
    statistic = getattr(foresight, "statistic_forecaster", None)
    semantic_id = getattr(foresight, "semantic_id_forecaster", None)
    product = getattr(foresight, "product_forecaster", None)
    mse = _Mse(statistic, schema) if statistic is not None else None
    names = [*_SEMANTIC_IDS] * (semantic_id is not None) + [*_PRODUCTS] * (product is not None)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
    if foresight is not None:
        for rooms in _rooms(files, schema):
            if mse is not None:
                mse.add(rooms["statistic_sequence"], rooms["statistic_mask"])
            for name, parts in kept.items():
                parts.append(rooms[name])
    columns = {name: np.concatenate(parts) for name, parts in kept.items() if parts}
    return {
        "forecast_mse": mse.result() if mse is not None else None,
        "semantic_id_hits": _hits(semantic_id, [columns.get(name) for name in _SEMANTIC_IDS]),
        "product_hits": _hits(product, [columns.get(name) for name in _PRODUCTS]),
    }


_SEMANTIC_IDS = ("semantic_ids", "run_lengths")
_PRODUCTS = ("product_ids", "product_categories")


def _hits(forecaster: Any, columns: list[np.ndarray | None]) -> dict[str, Any] | None:
    if forecaster is None or columns[0] is None:
        return None
    rates = forecaster.hit_rates(*columns)
    return {name: _plain(value) for name, value in rates.items()}


def _plain(value: Any) -> Any:
    """JSON knows no NaN: a rate of nothing is None."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return None if np.isnan(value) else float(value)


def _rooms(files: Sequence[str], schema: RankingSchema) -> Iterator[dict[str, np.ndarray]]:
    """The rooms' sequences of each batch of examples that weren't there before."""
    seen: set[tuple[int, int]] = set()
    names = [feature.name for feature in schema.features if feature.role == "room" and len(feature.shape) > 0]
    for examples in example_batches(files, schema, batch_size=4096):
        keys = np.stack([examples["live_id"].numpy(), examples["timestamp_ms"].numpy() // WINDOW_MS], axis=1)
        distinct, first = np.unique(keys, axis=0, return_index=True)
        new = [key not in seen for key in map(tuple, distinct.tolist())]
        seen.update(map(tuple, distinct.tolist()))
        yield {name: examples[name].numpy()[first[new]] for name in names}


class _Mse:
    def __init__(self, forecaster: StatisticForecaster, schema: RankingSchema) -> None:
        self._forecaster, self._horizon = forecaster, schema.horizon
        self._totals = dict.fromkeys(("model", "mean", "latest"), 0.0)
        self._count = 0

    def add(self, sequence: np.ndarray, mask: np.ndarray) -> None:
        # `errors` leaves out what has nothing to forecast from, so that doesn't weigh here either.
        counted = int(mask[:, : -self._horizon].any(axis=1).sum())
        if counted:
            errors = self._forecaster.errors(sequence, mask)
            self._totals = {name: total + errors[name] * counted for name, total in self._totals.items()}
            self._count += counted

    def result(self) -> dict[str, float | None]:
        return {name: total / self._count if self._count else None for name, total in self._totals.items()}
