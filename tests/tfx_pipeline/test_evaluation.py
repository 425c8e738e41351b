import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from keras_models.metrics import grouped_auc
from tfx_pipeline.evaluation import evaluate
from tfx_pipeline.predictions import Predictions

ROWS = 600


@pytest.fixture
def predictions() -> Predictions:
    """Candidate scores that rank well and baseline scores at random; "rare" has one class only."""
    rng = np.random.default_rng(5)
    label = (rng.random(ROWS) < 0.3).astype(np.float32)
    good, random = 0.4 * label + rng.random(ROWS), rng.random(ROWS)
    return Predictions(
        user_id=rng.integers(0, 30, ROWS),
        live_id=rng.integers(0, 9, ROWS),
        timestamp_ms=np.arange(ROWS),
        labels={"ctr": label, "rare": np.zeros(ROWS, np.float32)},
        masks={"ctr": rng.random(ROWS) < 0.8, "rare": np.ones(ROWS, bool)},
        scores={"candidate": {"ctr": good, "rare": good}, "baseline": {"ctr": random, "rare": random}},
    )


def test_figures_count_the_rows_whose_label_is_known(predictions):
    figures = evaluate(predictions, resamples=50, seed=0)["ctr"]
    known = predictions.masks["ctr"]
    expected = grouped_auc(
        predictions.user_id[known], predictions.labels["ctr"][known], predictions.scores["candidate"]["ctr"][known]
    )
    assert figures["rows"] == known.sum() < ROWS
    assert figures["positives"] == predictions.labels["ctr"][known].sum()
    assert (figures["auc"], figures["gauc"], figures["uauc"]) == (expected.auc, expected.gauc, expected.uauc)
    assert (figures["users"], figures["users_left_out"]) == (expected.users, expected.users_left_out)
    low, high = figures["interval"]["auc"]
    assert low < figures["auc"] < high


def test_a_difference_is_the_candidates_figure_minus_the_baselines(predictions):
    figures = evaluate(predictions, resamples=50, seed=0)["ctr"]
    difference = figures["difference"]["gauc"]
    assert difference["value"] == pytest.approx(figures["gauc"] - figures["baseline"]["gauc"])
    assert 0 < difference["low"] < difference["value"] < difference["high"]


def test_without_a_baseline_there_is_no_difference(predictions):
    figures = evaluate(predictions.without("baseline"), resamples=5, seed=0)["ctr"]
    assert "difference" not in figures
    assert "baseline" not in figures


def test_what_is_not_defined_is_none(predictions):
    figures = evaluate(predictions, resamples=5, seed=0)["rare"]
    assert figures["positives"] == 0
    assert figures["auc"] is figures["gauc"] is figures["uauc"] is None
    assert figures["users_left_out"] == figures["users"]
    assert figures["difference"]["auc"] == {"value": None, "low": None, "high": None}


def test_scores_that_are_not_numbers_give_no_figures(predictions):
    scores = {"candidate": {**predictions.scores["candidate"], "ctr": np.full(ROWS, np.nan)}}
    figures = evaluate(dataclasses.replace(predictions, scores=scores), resamples=5, seed=0)
    assert figures["ctr"]["finite"] is False
    assert figures["ctr"]["auc"] is None
    assert figures["rare"]["finite"] is True


def test_predictions_are_written_as_columns(predictions, tmp_path):
    predictions.write_parquet(tmp_path / "predictions.parquet")
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.column_names[:7] == [
        "user_id", "live_id", "timestamp_ms", "label_ctr", "mask_ctr", "score_ctr", "baseline_score_ctr"
    ]  # fmt: skip
    np.testing.assert_array_equal(table["score_ctr"].to_numpy(), predictions.scores["candidate"]["ctr"])
    np.testing.assert_array_equal(table["label_ctr"].to_numpy(), predictions.labels["ctr"])
    np.testing.assert_array_equal(table["mask_ctr"].to_numpy(), predictions.masks["ctr"])
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]
