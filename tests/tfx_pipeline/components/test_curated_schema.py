import numpy as np
import pyarrow as pa
import pytest

from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA
from tests.tfx_pipeline.synthetic_examples import example_columns
from tfx_pipeline.components.curated_schema import curated_schema, write_curated_schema


@pytest.mark.parametrize("schema", [LIVE_SCHEMA, CHAT_SCHEMA])
def test_every_feature_is_required_with_all_its_values(schema):
    features = {feature.name: feature for feature in curated_schema(schema).feature}
    assert list(features) == [feature.name for feature in schema.features]
    for feature in schema.features:
        assert features[feature.name].presence.min_fraction == 1
        assert [dim.size for dim in features[feature.name].shape.dim] == [feature.size]


def test_another_schema_is_written_to_another_path(tmp_path):
    live, chat = write_curated_schema(LIVE_SCHEMA, tmp_path), write_curated_schema(CHAT_SCHEMA, tmp_path)
    assert live != chat
    assert write_curated_schema(LIVE_SCHEMA, tmp_path) == live
    assert 'name: "label_mask"' in live.read_text()


def _first(name: str, value: float):
    def change(columns: dict[str, list]) -> None:
        columns[name][0] = [value] * len(columns[name][0])

    return change


def _shorter(columns: dict[str, list]) -> None:
    columns["statistic_sequence"] = [values[:-1] for values in columns["statistic_sequence"]]


@pytest.mark.slow  # TFDV takes 10 seconds to import
@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (lambda columns: None, None, ""),
        (_first("label_mask", 2.0), "label_mask", "Unexpectedly high value: 2>1"),
        (_first("label", -1.0), "label", "Unexpectedly low values: -1<0"),
        (_first("user_counts", -3.0), "user_counts", "Unexpectedly low values: -3<0"),
        (_first("context", float("nan")), "context", "Float feature has NaN values"),
        (_first("author_counts", float("inf")), "author_counts", "Float feature has Inf values"),
        (_first("user_id", -1), "user_id", "Unexpectedly small value: -1"),
        (_first("label_weight", None), "label_weight", "present in fewer examples"),
        (_shorter, "statistic_sequence", "not compatible with the specified shape"),
        (lambda columns: columns.pop("live_id"), "live_id", "Column is completely missing"),
        (lambda columns: columns.update(extra=[[1.0]] * 40), "extra", "New column"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # TFDV's own, on inf
def test_what_does_not_fit_is_an_anomaly_of_its_feature(small_schema, change, name, said):
    import tensorflow_data_validation as tfdv
    from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory

    from tfx_pipeline.components.strict_example_validator import describe_anomalies

    arrays = example_columns(small_schema, 1, 40, np.random.default_rng(0))
    columns = {key: values.reshape(40, -1).tolist() for key, values in arrays.items()}
    change(columns)
    types = {feature.name: pa.list_(pa.type_for_alias(feature.dtype)) for feature in small_schema.features}
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([None if v and v[0] is None else v for v in values], types.get(key))
            for key, values in columns.items()
        ],
        names=list(columns),
    )
    anomalies = tfdv.validate_statistics(
        generate_statistics_in_memory(batch, tfdv.StatsOptions()), curated_schema(small_schema)
    )
    lines = describe_anomalies("train", anomalies)
    if name is None:
        assert lines == []
    else:
        assert len(lines) == 1
        assert lines[0].startswith(f"  {name} (train): ")
        assert said in lines[0]
