"""Recipe: which ranker is served, and how many rooms are live."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_transforms.schema import (
    CATEGORIES,
    LIVE_SCHEMA,
    PRODUCT_LENGTH,
    SEMANTIC_ID_LENGTH,
    WINDOW_MS,
    RankingSchema,
)
from beam_transforms.window_write import Tables

if TYPE_CHECKING:
    from keras_models.ranker_config import RankerConfig

MODEL_NAME = "live_ranker"
BEGIN_MS = 1_750_000_000_000 // WINDOW_MS * WINDOW_MS

_PAIRS = 20
_WARM_UP_ROWS = 32  # as a pipeline's by default
_HIGH = {"statistic_mask": 2}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a measurement is made of.

    Attributes:
        schema: Of store and model.
        settings: The model's other settings, as in a pipeline's configuration.
        rooms: Live rooms in the store.
        candidates: Rooms a request asks for.
        users: Users in the store, each with a few authors and rooms met before.
    """

    schema: RankingSchema
    settings: Mapping[str, Any]
    rooms: int
    candidates: int = 300
    users: int = 1000

    def publish(self, folder: Path) -> list[np.ndarray]:
        """Publishes a model with random weights as version 1 in `folder`/models; returns the weights."""
        import keras

        from keras_models.export import export_ranker
        from keras_models.ranker import LiveRanker
        from serving.publisher import publish
        from serving.tensors import predict_request

        keras.utils.set_random_seed(0)
        model = LiveRanker(self._config)
        exported = folder / "exported"
        export_ranker(model, exported)
        requests = [
            predict_request(
                MODEL_NAME, self.inputs(signature, _WARM_UP_ROWS), signature_name=signature
            ).SerializeToString()
            for signature in ("serving_default", "rank", "forecast")
        ]
        publish(exported, folder / "models", self.manifest(), requests)
        return [np.asarray(weight) for weight in model.get_weights()]

    def inputs(self, signature: str, rooms: int) -> dict[str, np.ndarray]:
        """Random ones for some rooms."""
        config, generator = self._config, np.random.default_rng(0)
        named = {"serving_default": config.input_shapes, "rank": config.rank_shapes, "forecast": config.room_shapes}
        return {
            name: generator.integers(1 if name.endswith("_mask") else 0, _HIGH.get(name, 20), (rooms, *shape)).astype(
                dtype
            )
            for name, (dtype, shape) in named[signature].items()
        }

    @property
    def _config(self) -> "RankerConfig":
        from tfx_pipeline.ranker_settings import ranker_config

        return ranker_config(self.schema, self.settings)

    def manifest(self) -> dict[str, Any]:
        """Of the next version."""
        return {
            "model_name": MODEL_NAME,
            "span": 0,
            "newest_event_ms": time.time_ns() // 1_000_000,
            "parent_version": None,
            "tasks": {task: {"auc": None, "gauc": None, "uauc": None} for task in self.schema.task_names},
            "decision": "blessed",
            "reasons": ["a benchmark: the weights are random"],
        }

    def tables(self, window: int) -> Tables:
        """The records that a window writes: of all rooms always, of everything else in the first one."""
        generator = np.random.default_rng(window)
        rooms, users = np.arange(self.rooms), np.arange(self.users)
        pair = np.repeat(users, _PAIRS)
        met = np.random.default_rng(0).integers(0, self.rooms, len(pair))
        ids = {
            ("live_id",): {"live_id": rooms},
            ("user_id",): {"user_id": users},
            ("author_id",): {"author_id": rooms},
            ("user_id", "author_id"): {"user_id": pair, "author_id": met},
            ("user_id", "live_id"): {"user_id": pair, "live_id": met},
        }
        keys = [key for key in self.schema.stored if not window or key == ("live_id",)]
        return {key: [self._columns(key, ids[key], window, generator)] for key in keys}

    def _columns(
        self, key: tuple[str, ...], ids: Mapping[str, np.ndarray], window: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        columns = dict(ids)
        rows = len(columns[key[0]])
        for feature in self.schema.stored[key]:
            shape, name = (rows, *feature.shape), feature.name
            if name == "author_id":
                columns[name] = columns["live_id"]
            elif name == "opened_ms":
                columns[name] = np.full(shape, BEGIN_MS - 3_600_000)
            elif name.endswith("_last_ms"):
                columns[name] = np.full(shape, BEGIN_MS + window * WINDOW_MS - 1)
            elif name == "statistic_mask":
                columns[name] = np.ones(shape, np.float32)
            elif name == "run_lengths":
                columns[name] = generator.integers(1, 5, shape)
            elif name == "product_categories":
                columns[name] = generator.integers(0, self.schema.categories, shape)
            elif feature.dtype == "int64":
                columns[name] = generator.integers(
                    0, self.schema.codes if name == "semantic_ids" else self.rooms, shape
                )
            else:
                columns[name] = generator.poisson(2, shape).astype(np.float32)
        return columns


_DEMO_SCHEMA = dataclasses.replace(
    LIVE_SCHEMA, semantic_id_length=12, codes=256, product_length=4, categories=CATEGORIES
)
_DEMO_SETTINGS = {"variant": "all", "forecaster_layers": 1}

DEMO = Recipe(_DEMO_SCHEMA, _DEMO_SETTINGS, rooms=10_000)
"""The schema and the settings of `foresight demo`, and 10,000 live rooms."""

PUBLISHED = dataclasses.replace(
    DEMO,
    schema=dataclasses.replace(
        _DEMO_SCHEMA, semantic_id_length=SEMANTIC_ID_LENGTH, codes=20_000, product_length=PRODUCT_LENGTH
    ),
    settings={"variant": "all"},
)
"""Sequences and codebook as long as the papers have them, and two layers a forecaster."""

TINY = Recipe(
    dataclasses.replace(
        LIVE_SCHEMA,
        metrics=LIVE_SCHEMA.metrics[:2],
        tasks=LIVE_SCHEMA.tasks[:2],
        histories=LIVE_SCHEMA.histories[:1],
        sequence_length=4,
        horizon=1,
        entered_authors_length=2,
    ),
    {
        **{"variant": "statistic", "forecaster_layers": 1, "model_width": 4, "forecaster_heads": 1, "embedding_dim": 2},
        **{"user_bins": 50, "author_bins": 50, "experts": 2, "expert_units": (4,), "tower_units": 4},
    },
    rooms=40,
    candidates=10,
    users=5,
)
"""What shows in seconds that a measurement runs."""
