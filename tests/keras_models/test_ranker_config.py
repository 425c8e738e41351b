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
        "semantic_ids": ("int64", (6,)),
        "run_lengths": ("int64", (6,)),
        "product_ids": ("int64", (5,)),
        "product_categories": ("int64", (5, 3)),
        "context": ("float32", (3,)),
        "user_counts": ("float32", (4,)),
    }


@pytest.mark.parametrize(
    ("variant", "room", "parts"),
    [
        ("base", set(), {}),
        ("historical_content", {"semantic_ids", "run_lengths"}, {"historical_content": 8}),
        ("foresight_prediction", {"semantic_ids", "run_lengths"}, {"foresight_prediction": 8}),
        (
            "statistic",
            {"statistic_sequence", "statistic_mask"},
            {"level": 3 * (2 + 3), "statistic_encoding": 3 * 8},
        ),
        ("product", {"product_ids", "product_categories"}, {"next_category": 8, "product_encoding": 4 * 8}),
        (
            "all",
            {
                "statistic_sequence",
                "statistic_mask",
                "semantic_ids",
                "run_lengths",
                "product_ids",
                "product_categories",
            },
            {
                "level": 15,
                "statistic_encoding": 24,
                "historical_content": 8,
                "foresight_prediction": 8,
                "next_category": 8,
                "product_encoding": 32,
            },
        ),
    ],
)
def test_what_a_variant_looks_at(variant, room, parts):
    config = small_config(variant=variant)
    assert set(config.room_shapes) == room
    assert config.foresight_parts == parts
    read = {name: width if name == "level" else config.foresight_units for name, width in parts.items()}
    assert config.read_parts == read
    assert config.foresight_size == sum(read.values())
    assert config.input_shapes == small_config().input_shapes
    sides = {"user_id", "author_id", "entered_authors", "context", "user_counts"}
    assert set(config.rank_shapes) == sides | ({"foresight"} if parts else set())


def test_examples_without_semantic_ids_and_products_have_no_such_inputs():
    config = small_config(semantic_id_length=0, product_length=0)
    assert set(config.input_shapes) == {*small_config().input_shapes} - {
        "semantic_ids",
        "run_lengths",
        "product_ids",
        "product_categories",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "tasks must be one or more distinct names"),
        ({"tasks": ("ctr", "ctr")}, "tasks must be one or more distinct names"),
        ({"variant": "best"}, "variant must be one of base, .*, all, got 'best'"),
        ({"variant": "product", "product_length": 0}, "variant 'product' needs product_length of at least 2, got 0"),
        (
            {"variant": "all", "product_length": 0, "semantic_id_length": 0},
            "variant 'all' needs semantic_id_length and product_length of at least 2, got 0",
        ),
        ({"semantic_id_length": 1}, r"semantic_id_length must be 0 \(no such input\) or at least 2, got 1"),
        ({"architecture": "tree"}, "architecture must be one of mmoe, .*, fm, got 'tree'"),
        ({"horizon": 10}, "horizon must lie between 1 and sequence_length - 1 = 9, got 10"),
        ({"dense_features": {}}, "dense_features must be one or more names"),
        ({"dense_features": {"context": 0}}, "dense_features must be one or more names"),
        ({"dense_features": {"user_id": 1}}, r"names of other inputs, got \['user_id'\]"),
        ({"tasks": "ctr"}, "tasks must be a sequence of names, got the string 'ctr'"),
        ({"metrics": 0}, "metrics must be at least 1 .* got metrics=0"),
        ({"categories": (4, 9)}, r"three levels, got metrics=3 and categories=\(4, 9\)"),
    ],
)
def test_rejects_what_makes_no_ranker(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)
