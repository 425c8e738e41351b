import json
from pathlib import Path

import numpy as np
import pytest

from tests.tfx_pipeline.synthetic_examples import example_columns, write_examples
from tfx_pipeline.config import TrainingConfig

pytestmark = pytest.mark.slow  # each training traces its step for seconds

MODEL = {"user_bins": 100, "author_bins": 100, "expert_units": [16, 8], "experts": 2, "model_width": 8}
TRAINING = TrainingConfig(epochs=1, batch_size=64, learning_rate=0.01)


@pytest.fixture(scope="module")
def columns(small_schema) -> dict[str, np.ndarray]:
    return example_columns(small_schema, 1, 900, np.random.default_rng(0))


@pytest.fixture(scope="module")
def train(small_schema, columns, tmp_path_factory):
    """`train(name, model=..., training=..., base=...)` trains, exports to a folder and returns (folder, report)."""
    from tfx_pipeline.trainer_module import train_and_export

    root = tmp_path_factory.mktemp("training")
    write_examples(root / "train.tfrecord", columns, slice(0, 600))
    write_examples(root / "eval.tfrecord", columns, slice(600, 900))

    def call(name: str, *, model=MODEL, training=TRAINING, base: Path | None = None) -> tuple[Path, dict]:
        report = train_and_export(
            schema=small_schema,
            model=model,
            training=training,
            train_files=[str(root / "train.tfrecord")],
            eval_files=[str(root / "eval.tfrecord")],
            base_model=base,
            export_to=root / name,
        )
        return root / name, report

    return call


@pytest.fixture(scope="module")
def cold(train) -> tuple[Path, dict]:
    return train("cold")


def _scores(model: Path, schema, files: Path) -> np.ndarray:
    from tfx_pipeline.scoring import ExportedModel, score_models

    predictions = score_models({"candidate": ExportedModel(model, schema)}, [str(files)], schema, 512)
    return np.stack([predictions.scores["candidate"][task] for task in schema.task_names])


def test_the_same_seed_gives_the_same_scores_and_another_one_others(train, cold, small_schema):
    again, _ = train("again")
    other, _ = train("other", training=TrainingConfig(epochs=1, batch_size=64, learning_rate=0.01, seed=1))
    files = cold[0].parent / "eval.tfrecord"
    expected = _scores(cold[0], small_schema, files)
    np.testing.assert_array_equal(_scores(again, small_schema, files), expected)
    assert not np.allclose(_scores(other, small_schema, files), expected)


def test_the_weights_beside_the_export_are_those_of_the_export(cold, columns, small_schema):
    from keras_models.ranker import LiveRanker
    from keras_models.ranker_config import RankerConfig

    folder, report = cold
    ranker = LiveRanker(RankerConfig.from_dict(json.loads((folder / "assets.extra" / "ranker.json").read_text())))
    ranker.load_weights(folder / "assets.extra" / "model.weights.h5")
    rows = {name: values[600:] for name, values in columns.items()}
    outputs = ranker(rows, training=False)
    found = np.stack([np.ravel(outputs[task]) for task in small_schema.task_names])
    np.testing.assert_allclose(found, _scores(folder, small_schema, folder.parent / "eval.tfrecord"), atol=1e-6)

    # Forecasts are judged on each room and window once, however many impressions saw it.
    keys = np.stack([rows["live_id"], rows["timestamp_ms"] // 30_000], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    assert len(first) < len(keys)
    errors = ranker.foresight.statistic_forecaster.errors(
        rows["statistic_sequence"][first], rows["statistic_mask"][first]
    )
    assert report["forecast_mse"] == {name: pytest.approx(error, rel=1e-5) for name, error in errors.items()}


def test_a_warm_start_goes_on_where_the_base_model_stopped(train, cold):
    base, first = cold
    _, report = train("warm", base=base)
    assert report["warm_start"] is True
    assert report["loss"][0] < first["loss"][0]
    _, report = train("not_wanted", base=base, training=TrainingConfig(batch_size=64, warm_start=False))
    assert report["warm_start"] is False


def test_a_base_model_with_other_settings_is_not_started_from(train, cold):
    _, report = train("another", model={**MODEL, "variant": "base"}, base=cold[0])
    assert report["warm_start"] is False
    assert report["cold_start_reason"].endswith("these settings differ: variant")
    assert report["forecast_mse"] is None


def test_a_base_model_without_weights_is_not_started_from(train, tmp_path):
    _, report = train("bare", base=tmp_path)
    assert report["warm_start"] is False
    assert "lacks model.weights.h5" in report["cold_start_reason"]
