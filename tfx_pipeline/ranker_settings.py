"""The ranker that a schema asks for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from beam_transforms.schema import RankingSchema
from keras_models.ranker_config import RankerConfig

_FROM_SCHEMA = (
    *("tasks", "dense_features", "metrics", "sequence_length", "horizon", "entered_authors_length"),
    *("semantic_id_length", "product_length", "codes", "categories"),
)


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
    content: dict[str, Any] = {"semantic_id_length": schema.semantic_id_length, "product_length": schema.product_length}
    if schema.codes:
        content["codes"] = schema.codes
    if schema.categories:
        content["categories"] = schema.categories
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
            **content,
            **settings,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"model: {error}") from error
