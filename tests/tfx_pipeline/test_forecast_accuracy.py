import dataclasses
import json
import types
from typing import Any

import numpy as np
import pytest

from beam_transforms.schema import WINDOW_MS
from tests.tfx_pipeline.synthetic_examples import example_columns, write_examples
from tfx_pipeline.forecast_accuracy import forecast_accuracy

ROWS = 60


@pytest.fixture(scope="module")
def schema(small_schema):
    return dataclasses.replace(
        small_schema, semantic_id_length=3, codes=5, codebook="a", product_length=2, categories=(2, 3, 4)
    )


@pytest.fixture(scope="module")
def examples(schema, tmp_path_factory):
    """Two files of examples of six rooms in two windows; a room's sequences in a window are the same in all of them."""
    columns = example_columns(schema, 1, ROWS, np.random.default_rng(0))
    columns["live_id"] = np.arange(ROWS) % 6
    columns["timestamp_ms"] = columns["timestamp_ms"][0] // WINDOW_MS * WINDOW_MS + np.arange(ROWS) // 30 * WINDOW_MS
    first = (np.arange(ROWS) // 30) * 30 + columns["live_id"]
    for feature in schema.features:
        if feature.role == "room" and feature.shape:
            columns[feature.name] = columns[feature.name][first]
    columns["statistic_mask"][columns["live_id"] == 5] = 0  # nothing to forecast from
    folder = tmp_path_factory.mktemp("examples")
    for name, rows in (("a", slice(0, 25)), ("b", slice(25, ROWS))):
        write_examples(folder / name, columns, rows)
    return columns, [str(folder / "a"), str(folder / "b")]


class Forecaster:
    """Keeps what it is asked, and gives what it was told."""

    def __init__(self, answer):
        self._answer, self.asked = answer, []

    def errors(self, sequence, mask):
        self.asked.append((sequence, mask))
        return {"model": float(len(self.asked)), "mean": 2.0, "latest": 4.0}

    def hit_rates(self, *columns):
        self.asked.append(columns)
        return self._answer


def _ranker(**forecasters):
    foresight = types.SimpleNamespace(**forecasters)
    return types.SimpleNamespace(foresight=foresight, config=types.SimpleNamespace(foresight_size=1))


def test_each_room_and_window_counts_once(schema, examples):
    columns, files = examples
    semantic_id, product = Forecaster({"model": {"hit@1": 0.5}}), Forecaster({"model": 0.25})
    found = forecast_accuracy(_ranker(semantic_id_forecaster=semantic_id, product_forecaster=product), files, schema)
    assert found == {
        "forecast_mse": None,
        "semantic_id_hits": {"model": {"hit@1": 0.5}},
        "product_hits": {"model": 0.25},
    }
    distinct = [*range(6), *range(30, 36)]
    for forecaster, names in (
        (semantic_id, ("semantic_ids", "run_lengths")),
        (product, ("product_ids", "product_categories")),
    ):
        (asked,) = forecaster.asked
        for values, name in zip(asked, names, strict=True):
            wanted = columns[name][distinct]
            assert values.shape == wanted.shape
            assert sorted(values.tolist()) == sorted(wanted.tolist())


def test_the_errors_are_averaged_over_rooms_that_can_be_forecast(schema, examples):
    columns, files = examples
    statistic = Forecaster(None)
    found = forecast_accuracy(_ranker(statistic_forecaster=statistic), files, schema)
    counted = [int(mask[:, : -schema.horizon].any(axis=1).sum()) for _, mask in statistic.asked]
    assert sum(counted) == 10  # of twelve rooms and windows, two have no past
    model = np.average(1 + np.arange(len(counted)), weights=counted)
    assert found["forecast_mse"] == {"model": pytest.approx(model), "mean": 2.0, "latest": 4.0}
    assert found["semantic_id_hits"] is None and found["product_hits"] is None
    assert {tuple(sequence[0, :, 0]) for sequence, _ in statistic.asked} <= {
        tuple(sequence[:, 0]) for sequence in columns["statistic_sequence"]
    }


def test_a_rate_of_nothing_is_none_and_the_figures_are_json(schema, examples):
    nothing = {"model": {"hit@1": np.float32(0.5), "hit@10": float("nan")}}
    found = forecast_accuracy(_ranker(semantic_id_forecaster=Forecaster(nothing)), examples[1], schema)
    assert json.loads(json.dumps(found, allow_nan=False))["semantic_id_hits"] == {
        "model": {"hit@1": 0.5, "hit@10": None}
    }


def test_a_ranker_without_foresight_has_no_figures(schema, examples):
    ranker: Any = types.SimpleNamespace(config=types.SimpleNamespace(foresight_size=0))
    nothing = {"forecast_mse": None, "semantic_id_hits": None, "product_hits": None}
    assert forecast_accuracy(ranker, examples[1], schema) == nothing


def test_without_an_example_there_is_no_figure(schema, tmp_path):
    (tmp_path / "none").touch()
    ranker = _ranker(statistic_forecaster=Forecaster(None), semantic_id_forecaster=Forecaster({"model": {}}))
    found = forecast_accuracy(ranker, [str(tmp_path / "none")], schema)
    assert found["forecast_mse"] == {"model": None, "mean": None, "latest": None}
    assert found["semantic_id_hits"] is None
