import json

import pytest

from keras_models.ranker_config import RankerConfig

from .ranker_data import small_config


def test_survives_json():
    config = small_config(attention_units=(16, 8))
    assert RankerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_inputs_of_the_signatures():
    config = small_config()
    assert config.input_shapes == {
        "user_id": ("int64", ()),
        "author_id": ("int64", ()),
        "entered_authors": ("int64", (5,)),
        "statistic_sequence": ("float32", (10, 3)),
        "statistic_mask": ("float32", (10,)),
        "context": ("float32", (3,)),
        "user_counts": ("float32", (4,)),
    }
    assert config.foresight_size == 3 * (2 + 3 + 8)
    assert set(config.rank_shapes) == set(config.input_shapes) - set(config.room_shapes) | {"foresight"}
    base = small_config(variant="base")
    assert set(base.rank_shapes) == set(base.input_shapes) - set(base.room_shapes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "tasks must be one or more distinct names"),
        ({"tasks": ("ctr", "ctr")}, "tasks must be one or more distinct names"),
        ({"variant": "all"}, "variant must be one of base, statistic, got 'all'"),
        ({"horizon": 10}, "horizon must lie between 1 and sequence_length - 1 = 9, got 10"),
        ({"dense_features": {}}, "dense_features must be one or more names"),
        ({"dense_features": {"context": 0}}, "dense_features must be one or more names"),
    ],
)
def test_rejects_what_makes_no_ranker(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)
