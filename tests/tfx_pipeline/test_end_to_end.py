"""The pipeline over several spans on one root, in one process: importing TFX takes longer than a run."""

import dataclasses
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from tfx_pipeline.config import PipelineConfig, load_config
from tfx_pipeline.local_runner import run_pipeline
from tfx_pipeline.pipeline_result import PipelineResult

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

COMPONENTS = [
    "ImportSchemaGen",
    "LatestPushedModel",
    "SpanExampleGen",
    "StatisticsGen",
    "StrictExampleValidator",
    "Trainer",
    "RankingEvaluator",
    "VersionPusher",
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory, write_span) -> PipelineConfig:
    """Spans 0, 1 and 3 to learn from, 2 with shuffled labels, 4 with broken examples."""
    folder = tmp_path_factory.mktemp("pipeline")
    for span in (0, 1, 3):
        write_span(folder / "examples", span, seed=span)
    write_span(folder / "examples", 2, seed=2, shuffle_labels=True)
    write_span(folder / "examples", 4, rows=200, changed=_broken)
    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
    models = f'config {{ name: "live_ranker" base_path: "/m" {labels} }}'
    (folder / "models.config").write_text(f"model_config_list {{ {models} }}")
    settings = {
        "models_config": "models.config",
        "model": {"user_bins": 100, "author_bins": 100, "expert_units": [32, 16], "experts": 2},
        "training": {"epochs": 4, "batch_size": 128, "learning_rate": 0.005},
        "gate": {
            "smallest_value": {"auc": {"*": 0.6}},
            "largest_loss": {"auc": {"*": 0.05}, "gauc": {"*": 0.05}},
            "resamples": 100,
        },
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(settings))
    return load_config(folder / "pipeline.yaml")


def _broken(columns: dict[str, np.ndarray]) -> None:
    columns["label_mask"][0, 1] = 2
    columns["context"][-1, 0] = np.nan


def _versions(config: PipelineConfig) -> dict[int, dict]:
    folder = config.model_dir / config.model_name
    return {int(path.parent.name): json.loads(path.read_text()) for path in folder.glob("*/version.json")}


def _runs(config: PipelineConfig) -> list[dict[str, str]]:
    """For each run: component -> state of its execution."""
    from tfx.orchestration import metadata

    from tfx_pipeline.pipeline_run import read_runs

    connection = metadata.sqlite_metadata_connection_config(str(config.pipeline_root / "metadata.sqlite"))
    with metadata.Metadata(connection) as handle:
        return [{component: of.state for component, of in run.items()} for run in read_runs(handle.store)]


@pytest.fixture(scope="module")
def first(config) -> PipelineResult:
    return run_pipeline(config, 0)


@pytest.fixture(scope="module")
def second(config, first) -> PipelineResult:
    return run_pipeline(config, 1)


@pytest.fixture(scope="module")
def third(config, second) -> PipelineResult:
    return run_pipeline(config, 2)


def test_a_first_model_is_judged_by_value_and_pushed(config, first):
    assert first.decision == "blessed"
    assert first.version == 1
    assert first.pushed == config.model_dir / "live_ranker" / "1"
    assert (first.pushed / "saved_model.pb").exists()
    assert any("no model was pushed before" in reason for reason in first.reasons)
    assert first.tasks["ctr"]["auc"] > 0.7
    assert "difference" not in first.tasks["ctr"]
    assert first.forecast_mse["model"] < min(first.forecast_mse["mean"], first.forecast_mse["latest"])
    assert list(first.stages) == COMPONENTS
    assert first.cached == ()
    manifest = json.loads((first.pushed / "version.json").read_text())
    assert manifest["span"] == 0
    assert manifest["parent_version"] is None
    assert manifest["tasks"]["ctr"]["gauc"] == first.tasks["ctr"]["gauc"]
    assert (
        manifest["newest_event_ms"]
        == json.loads((config.examples / "Span-0/manifest.json").read_text())["newest_event_ms"]
    )


def test_a_second_model_starts_from_the_first_and_is_compared_with_it(config, first, second):
    assert second.decision == "blessed"
    assert second.version == 2
    assert second.cached == ("ImportSchemaGen",)
    assert _versions(config)[2]["parent_version"] == 1
    training = json.loads((second.model / "assets.extra" / "training.json").read_text())
    first_training = json.loads((first.model / "assets.extra" / "training.json").read_text())
    assert training["warm_start"] is True
    assert training["loss"][0] < first_training["loss"][0]
    assert set(second.tasks["ctr"]["difference"]) == {"auc", "gauc", "uauc"}


def test_a_worse_model_is_rejected_with_reasons_and_not_pushed(config, third):
    assert third.decision == "rejected"
    assert third.version is None
    assert third.pushed is None
    assert any("below the smallest value" in reason for reason in third.reasons)
    assert sorted(_versions(config)) == [1, 2]


def test_every_component_was_executed_once_a_span(config, third):
    runs = _runs(config)[:3]
    assert [list(run) for run in runs] == [COMPONENTS] * 3
    counts = Counter(state for run in runs for state in run.items())
    assert counts.pop(("ImportSchemaGen", "CACHED")) == 2  # the schema stayed the same
    assert counts.pop(("ImportSchemaGen", "COMPLETE")) == 1
    assert counts == {(component, "COMPLETE"): 3 for component in COMPONENTS[1:]}


def test_running_a_rejected_span_again_comes_from_the_cache_to_the_same_answer(config, third):
    again = run_pipeline(config, 2)
    assert again.reasons == third.reasons
    assert again.model == third.model
    assert set(again.cached) >= {
        "SpanExampleGen",
        "StatisticsGen",
        "StrictExampleValidator",
        "Trainer",
        "RankingEvaluator",
    }
    assert "VersionPusher" not in again.cached
    assert sorted(_versions(config)) == [1, 2]


def test_a_run_that_was_killed_before_the_push_goes_on_where_it_stopped(config, third):
    # The push is told to keep the versions that labels are on.
    script = """
import os, signal, sys
from pathlib import Path
from tfx_pipeline.components import version_pusher
from tfx_pipeline.config import load_config
from tfx_pipeline.local_runner import run_pipeline


def publish(*arguments, protected):
    assert protected == {1, 2}, protected
    os.kill(os.getpid(), signal.SIGKILL)

version_pusher.publish = publish
run_pipeline(load_config(Path(sys.argv[1])), 3)
"""
    command = [sys.executable, "-c", script, str(config.examples.parent / "pipeline.yaml")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert sorted(_versions(config)) == [1, 2]

    result = run_pipeline(config, 3)
    assert result.decision == "blessed"
    assert set(result.cached) >= {"Trainer", "RankingEvaluator"}
    assert result.version == 3
    assert _versions(config)[3]["parent_version"] == 2  # not the model that was blessed and never served
    assert set(result.tasks["ctr"]["difference"]) == {"auc", "gauc", "uauc"}


def test_a_model_that_was_published_but_not_recorded_keeps_its_version(config, third, monkeypatch):
    """As after a kill between publishing and recording: the same candidate comes to the pusher again."""
    from tfx_pipeline.components import version_pusher

    published = max(_versions(config))
    monkeypatch.setattr(version_pusher, "MODEL_ID_PROPERTY", "lost")
    run_pipeline(config, 1)
    monkeypatch.undo()
    newest = max(_versions(config))
    assert newest == published + 1
    again = run_pipeline(config, 1)
    assert "Trainer" in again.cached
    assert again.version == newest
    assert max(_versions(config)) == newest


def test_examples_that_do_not_fit_the_schema_stop_the_pipeline_by_name(config, third):
    versions = _versions(config)
    with pytest.raises(ValueError, match="the examples of span 4 don't fit the schema") as error:
        run_pipeline(config, 4)
    assert "label_mask (train): Unexpectedly high value: 2>1" in str(error.value)
    assert "context (eval): Float feature has NaN values" in str(error.value)
    run = _runs(config)[-1]
    assert run["StrictExampleValidator"] == "FAILED"
    assert not {"Trainer", "RankingEvaluator", "VersionPusher"} & set(run)
    assert _versions(config) == versions


def test_a_model_of_another_shape_starts_from_nothing_and_is_still_compared(config, third):
    other = dataclasses.replace(config, model={**config.model, "variant": "base"})
    result = run_pipeline(other, 1)
    training = json.loads((result.model / "assets.extra" / "training.json").read_text())
    assert training["warm_start"] is False
    assert "variant" in training["cold_start_reason"]
    assert "difference" in result.tasks["ctr"]
    assert result.forecast_mse is None
    if result.version is not None:
        assert _versions(config)[result.version]["parent_version"] is None
