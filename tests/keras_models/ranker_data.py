"""A small ranker and inputs for it."""

import numpy as np

from keras_models.ranker_config import RankerConfig

TASKS = ("ctr", "gtr")


def small_config(**changes) -> RankerConfig:
    settings = {
        "tasks": TASKS,
        "dense_features": {"context": 3, "user_counts": 4},
        "metrics": 3,
        "sequence_length": 10,
        "horizon": 2,
        "entered_authors_length": 5,
        "semantic_id_length": 6,
        "codes": 12,
        "max_run_length": 5,
        "product_length": 5,
        "categories": (2, 4, 9),
        "product_bins": 40,
        "user_bins": 500,
        "author_bins": 300,
        "embedding_dim": 8,
        "model_width": 8,
        "forecaster_layers": 1,
        "forecaster_heads": 2,
        "expert_units": (16, 8),
        "experts": 3,
    }
    return RankerConfig(**{**settings, **changes})


def inputs_for(config: RankerConfig, rows: int, users: int = 100, authors: int = 50) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    inputs = {
        "user_id": generator.integers(0, users, rows),
        "author_id": generator.integers(0, authors, rows),
        "entered_authors": generator.integers(0, authors, (rows, config.entered_authors_length)),
        "statistic_sequence": generator.poisson(
            generator.gamma(1.0, 5.0, (rows, 1, config.metrics)), (rows, config.sequence_length, config.metrics)
        ).astype(np.float32),
        "statistic_mask": np.ones((rows, config.sequence_length), np.float32),
    }
    inputs |= {
        "semantic_ids": generator.integers(0, config.codes, (rows, config.semantic_id_length)),
        "run_lengths": generator.integers(1, 4, (rows, config.semantic_id_length)),
        "product_ids": generator.integers(0, 100, (rows, config.product_length)),
        "product_categories": generator.integers(0, config.categories, (rows, config.product_length, 3)),
    }
    inputs["semantic_ids"][: rows // 4, :3], inputs["run_lengths"][: rows // 4, :3] = -1, 0
    inputs["product_ids"][: rows // 4, :2] = inputs["product_categories"][: rows // 4, :2] = -1
    inputs["entered_authors"][: rows // 3, :3] = -1
    inputs["statistic_mask"][: rows // 4, :4] = 0
    for name, width in config.dense_features.items():
        inputs[name] = generator.poisson(3, (rows, width)).astype(np.float32)
    return inputs
