import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfx_pipeline.config import GateConfig
from tfx_pipeline.gate import BLESSED, REJECTED
from tfx_pipeline.scoring import ModelUnusableError

pytestmark = pytest.mark.slow  # TFMA takes 10 seconds to import

GATE = GateConfig(resamples=50)


def export(path: Path, scale: float, tasks: tuple[str, ...] = ("ctr", "evtr", "ltr"), width: int | None = None) -> Path:
    """A model that scores task k with `scale` x the k-th entry of `user_author_counts`, which labels depend on."""

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, width), tf.float32, name="user_author_counts")])
        def serve(self, user_author_counts):
            return {task: scale * user_author_counts[:, k] for k, task in enumerate(tasks)}

    model = Model()
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.serve})
    return path


@pytest.fixture(scope="module")
def examples(write_span, tmp_path_factory) -> Path:
    """One span as SpanExampleGen leaves it."""
    folder = tmp_path_factory.mktemp("spans")
    span = write_span(folder, 7, rows=2000)
    (folder / "schema.json").rename(span / "schema.json")
    (span / "eval").rename(span / "Split-eval")
    return span


@pytest.fixture(scope="module")
def width(small_schema) -> int:
    return small_schema.feature("user_author_counts").size


@pytest.fixture
def evaluate(examples, tmp_path):
    from tfx_pipeline.evaluate_models import evaluate_models

    def call(candidate: Path, baseline: Path | None) -> dict:
        return evaluate_models(
            examples=examples,
            candidate=candidate,
            baseline=baseline,
            gate=GATE,
            batch_size=256,
            folder=tmp_path / "out",
        )

    return call


def test_a_first_model_is_judged_by_value_and_everything_is_written(evaluate, tmp_path, width):
    import tensorflow_model_analysis as tfma

    report = evaluate(export(tmp_path / "good", 1.0, width=width), None)
    assert report["decision"] == BLESSED
    assert "judged by value alone: no model was pushed before" in report["reasons"]
    assert report["span"] == 7
    assert report["rows"] == 500
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == report
    assert pq.read_table(tmp_path / "out" / "predictions.parquet").num_rows == 500

    result = tfma.load_eval_result(str(tmp_path / "out"))
    ((slice_key, by_output),) = result.slicing_metrics
    assert slice_key == ()
    figure = by_output["evtr"][""]["gauc"]["boundedValue"]
    assert figure["value"] == report["tasks"]["evtr"]["gauc"]
    assert [figure["lowerBound"], figure["upperBound"]] == report["tasks"]["evtr"]["interval"]["gauc"]
    assert set(by_output) == {"ctr", "evtr", "ltr"}


def test_a_worse_model_is_rejected_with_the_proven_loss(evaluate, tmp_path, width):
    good, bad = export(tmp_path / "good", 1.0, width=width), export(tmp_path / "bad", -1.0, width=width)
    report = evaluate(bad, good)
    assert report["decision"] == REJECTED
    assert any(reason.startswith("ctr auc is ") for reason in report["reasons"])
    assert any(reason.startswith("ltr gauc changed by -") for reason in report["reasons"])
    assert report["baseline"] == str(good)
    names = pq.read_schema(tmp_path / "out" / "predictions.parquet").names
    assert "baseline_score_ltr" in names


def test_an_equal_model_is_blessed(evaluate, tmp_path, width):
    report = evaluate(export(tmp_path / "a", 1.0, width=width), export(tmp_path / "b", 2.0, width=width))
    assert report["decision"] == BLESSED
    assert report["tasks"]["ctr"]["difference"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        (lambda path, width: export(path, 1.0, ("ctr",), width), "gives no score for the tasks"),
        (lambda path, width: export(path, 1.0, width=width + 1), "takes 'user_author_counts' as"),
        (lambda path, width: path, "doesn't load as a SavedModel"),
        (lambda path, width: export(path, float("nan"), width=width), "the baseline's scores are not all finite"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_said_and_value_decides(evaluate, tmp_path, width, baseline, said):
    report = evaluate(export(tmp_path / "good", 1.0, width=width), baseline(tmp_path / "baseline", width))
    assert report["decision"] == BLESSED
    assert report["baseline"] is None
    assert any(said in reason for reason in report["reasons"])
    assert "difference" not in report["tasks"]["ctr"]


def test_a_candidate_that_does_not_answer_the_schema_is_an_error(evaluate, tmp_path, width):
    with pytest.raises(ModelUnusableError):
        evaluate(export(tmp_path / "other", 1.0, ("ctr",), width), None)
