import pytest

from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA
from tfx_pipeline.ranker_settings import ranker_config


@pytest.mark.parametrize("schema", [LIVE_SCHEMA, CHAT_SCHEMA])
def test_the_rankers_inputs_are_the_schemas(schema):
    config = ranker_config(schema, {})
    assert {name: shape for name, (_, shape) in config.input_shapes.items()} == {
        feature.name: feature.shape for feature in schema.inputs
    }
    assert config.tasks == schema.task_names
    assert config.horizon == schema.horizon


def test_settings_are_taken():
    assert ranker_config(LIVE_SCHEMA, {"variant": "base", "expert_units": [8, 4]}).expert_units == (8, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"varaint": "base"}, r"model: unknown keys \['varaint'\]"),
        ({"horizon": 2}, r"model: unknown keys \['horizon'\]"),
        ({"variant": "best"}, "model: variant must be one of"),
    ],
)
def test_what_is_wrong_is_named(settings, said):
    with pytest.raises(ValueError, match=said):
        ranker_config(LIVE_SCHEMA, settings)
