import numpy as np
import pandas as pd
import pytest

from keras_models.metrics import grouped_auc

pytestmark = pytest.mark.slow  # TFMA takes 15 seconds to import

ROWS = 400


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"user_id": rng.integers(0, 40, ROWS), "score": rng.random(ROWS).round(1)})
    frame["label"] = list((rng.random((ROWS, 2)) < 0.3).astype(np.float32))
    frame["label_mask"] = list((rng.random((ROWS, 2)) < 0.8).astype(np.float32))
    frame["first"] = np.stack(frame["label"])[:, 0]
    return frame


def _tfma_figures(frame: pd.DataFrame, label_key: str, config: str) -> dict[str, float]:
    import tensorflow_model_analysis as tfma
    from tensorflow_model_analysis.proto import config_pb2

    metric = config_pb2.MetricConfig(class_name="GroupedAUC", module="tfx_pipeline.grouped_auc_metric", config=config)
    eval_config = config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(prediction_key="score", label_key=label_key)],
        slicing_specs=[config_pb2.SlicingSpec()],
        metrics_specs=[config_pb2.MetricsSpec(metrics=[metric])],
    )
    result = tfma.analyze_raw_data(frame, eval_config)
    return {name: value["doubleValue"] for name, value in result.slicing_metrics[0][1][""][""].items()}


def test_a_label_column_gives_the_same_as_the_function(frame):
    found = _tfma_figures(frame, "first", "")
    expected = grouped_auc(frame["user_id"], frame["first"], frame["score"])
    assert found == {name: pytest.approx(getattr(expected, name), abs=1e-12) for name in found}
    assert set(found) == {"auc", "gauc", "uauc", "users", "users_left_out"}
    assert expected.users_left_out > 0


def test_a_task_of_the_label_vector_counts_the_rows_whose_label_is_known(frame):
    found = _tfma_figures(frame, "label", '{"task": 1}')
    known = np.stack(frame["label_mask"])[:, 1] > 0
    labels = np.stack(frame["label"])[:, 1]
    expected = grouped_auc(frame["user_id"][known], labels[known], frame["score"][known])
    assert 0 < known.sum() < ROWS
    assert found == {name: pytest.approx(getattr(expected, name), abs=1e-12) for name in found}
