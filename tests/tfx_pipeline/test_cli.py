import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfx_pipeline import local_runner
from tfx_pipeline.cli import pipeline
from tfx_pipeline.pipeline_result import PipelineResult

FIGURES = {"auc": 0.81, "gauc": 0.65, "uauc": None, "users": 40, "users_left_out": 7}


def _result(**changes) -> PipelineResult:
    values = {
        "span": 4,
        "version": None,
        "decision": "rejected",
        "reasons": ("ctr auc is 0.5100, below the smallest value 0.55",),
        "notes": ("gtr was not judged: 3 positive labels, fewer than 20",),
        "tasks": {"ctr": FIGURES},
        "forecast_mse": {"model": 56.0, "mean": 59.0, "latest": 64.0},
        "semantic_id_hits": None,
        "product_hits": None,
        "stages": {"Trainer": 12.34},
        "cached": (),
        "evaluation": Path("/evaluation"),
        "model": Path("/model"),
        "pushed": None,
    }
    return PipelineResult(**(values | changes))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Calls the command with a pipeline that gives `answer`, a result or an error."""
    (tmp_path / "pipeline.yaml").write_text("examples: here\n")

    def call(answer, *arguments: str, text: str | None = None):
        def run_pipeline(config, span, progress):
            assert config.examples == tmp_path / "here"
            assert span == 4
            if isinstance(answer, Exception):
                raise answer
            return answer

        if text is not None:
            (tmp_path / "pipeline.yaml").write_text(text)
        monkeypatch.setattr(local_runner, "run_pipeline", run_pipeline)
        return CliRunner().invoke(pipeline, ["--config", str(tmp_path / "pipeline.yaml"), "--span", "4", *arguments])

    return call


def test_a_rejected_model_is_reported_with_its_reason(run):
    outcome = run(_result())
    assert outcome.exit_code == 0
    assert "span 4: rejected, not pushed" in outcome.output
    assert "ctr auc is 0.5100, below the smallest value 0.55" in outcome.output
    assert "gtr was not judged" in outcome.output
    assert "ctr     0.8100  0.6500       -  7 of 40" in outcome.output


def test_a_pushed_model_is_reported_with_its_version(run):
    assert "span 4: blessed, pushed as version 9" in run(_result(decision="blessed", version=9)).output


def test_json_is_one_object(run):
    outcome = run(_result(version=2, pushed=Path("/models/live_ranker/2")), "--json")
    report = json.loads(outcome.stdout)
    assert report["version"] == 2
    assert report["pushed"] == "/models/live_ranker/2"
    assert report["tasks"]["ctr"]["users_left_out"] == 7
    assert report["stages"] == {"Trainer": 12.34}


@pytest.mark.parametrize("error", [ValueError("there is no Span-4"), RuntimeError("another pipeline is running")])
def test_an_error_ends_with_its_text_and_no_traceback(run, error):
    outcome = run(error)
    assert outcome.exit_code == 1
    assert outcome.output.startswith(f"Error: {error}\n")
    assert "Traceback" not in outcome.output
    assert "pipeline/log.txt" in outcome.output


def test_a_wrong_configuration_ends_with_its_text(run):
    outcome = run(_result(), text="exmaples: here\n")
    assert outcome.exit_code == 1
    assert "unknown keys ['exmaples']" in outcome.output
