"""The ranker, its forecasters and their layers, for Keras 3 on any backend.

Names come from their modules when they are first asked for: `keras_models.metrics` needs numpy alone.
"""

import importlib
from typing import Any

_MODULES = {
    "GroupedAUC": "keras_models.grouped_auc",
    "LiveRanker": "keras_models.ranker",
    "ProductForecaster": "keras_models.product_forecaster",
    "RankerConfig": "keras_models.ranker_config",
    "SemanticIdForecaster": "keras_models.semantic_id_forecaster",
    "StatisticForecaster": "keras_models.statistic_forecaster",
}

__all__ = [
    "GroupedAUC",
    "LiveRanker",
    "ProductForecaster",
    "RankerConfig",
    "SemanticIdForecaster",
    "StatisticForecaster",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)
