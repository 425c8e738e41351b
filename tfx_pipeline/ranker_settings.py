"""The ranker that a schema asks for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from beam_transforms.schema import RankingSchema
from keras_models.ranker_config import RankerConfig

_FROM_SCHEMA = ("tasks", "dense_features", "metrics", "sequence_length", "horizon", "entered_authors_length")


def ranker_config(schema: RankingSchema, settings: Mapping[str, Any]) -> RankerConfig:
    """A RankerConfig whose inputs and outputs are the schema's.

    Args:
        schema: What examples hold.
        settings: The other arguments of RankerConfig, by name.

    Raises:
        ValueError: If a setting isn't known, is the schema's, or has a value that RankerConfig refuses.
    """
    known = {field.name for field in dataclasses.fields(RankerConfig)} - set(_FROM_SCHEMA)
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"model: unknown keys {unknown}; known are {sorted(known)}")
    try:
        return RankerConfig(
            tasks=schema.task_names,
            dense_features={
                feature.name: feature.size
                for feature in schema.inputs
                if feature.dtype == "float32" and not feature.name.startswith("statistic_")
            },
            metrics=len(schema.metrics),
            sequence_length=schema.sequence_length,
            horizon=schema.horizon,
            entered_authors_length=schema.entered_authors_length,
            **settings,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"model: {error}") from error
