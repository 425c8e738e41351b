"""The TFX schema of examples, derived from the RankingSchema instead of inferred from data."""

import hashlib
import math
from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from beam_transforms.schema import PADDING_ID, Feature, RankingSchema

_NON_NEGATIVE = (0.0, math.inf)
_SHARE = (0.0, 1.0)
_BOUNDS: dict[str, tuple[float, float]] = {
    "statistic_mask": _SHARE,
    "entered_authors": (PADDING_ID, math.inf),
    "context": (-math.inf, math.inf),
    **dict.fromkeys(("semantic_ids", "product_ids", "product_categories"), (PADDING_ID, math.inf)),
    "label": _SHARE,
    "label_mask": _SHARE,
    "label_weight": (-math.inf, math.inf),
}
"""Smallest and largest value of the features that aren't just >= 0, as ids, counts and times are."""


def curated_schema(schema: RankingSchema) -> schema_pb2.Schema:
    """What every example must be: its features, all present in full, with type, number of values and domain.

    A tensor is stored flat, so its TFX shape is one dimension of all its values. A split must hold at least one
    example; features that the schema doesn't know are anomalies; floats must be finite.
    """
    result = schema_pb2.Schema()
    result.dataset_constraints.min_examples_count = 1
    for feature in schema.features:
        result.feature.append(_feature(feature))
    return result


def write_curated_schema(schema: RankingSchema, folder: Path) -> Path:
    """Writes the TFX schema as `<folder>/<digest>/schema.pbtxt` and returns that path: another schema, another path."""
    text = text_format.MessageToString(curated_schema(schema))
    path = folder / hashlib.sha256(text.encode()).hexdigest()[:16] / "schema.pbtxt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _feature(feature: Feature) -> schema_pb2.Feature:
    result = schema_pb2.Feature(name=feature.name)
    result.presence.min_fraction = 1.0
    result.presence.min_count = 1
    result.shape.dim.add(size=feature.size)
    smallest, largest = _BOUNDS.get(feature.name, _NON_NEGATIVE)
    if feature.dtype == "int64":
        result.type = schema_pb2.INT
        result.int_domain.min = int(smallest)
        if math.isfinite(largest):
            result.int_domain.max = int(largest)
    elif feature.dtype == "float32":
        result.type = schema_pb2.FLOAT
        result.float_domain.disallow_nan = True
        result.float_domain.disallow_inf = True
        if math.isfinite(smallest):
            result.float_domain.min = smallest
        if math.isfinite(largest):
            result.float_domain.max = largest
    else:
        raise ValueError(f"feature {feature.name!r} has dtype {feature.dtype!r}; examples hold int64 and float32")
    return result
