"""What is checked before TFX is imported; `test_end_to_end` runs the pipeline."""

import dataclasses

import filelock
import pytest

from tfx_pipeline.config import GateConfig, PipelineConfig
from tfx_pipeline.local_runner import run_pipeline


@pytest.fixture
def config(tmp_path, write_span) -> PipelineConfig:
    write_span(tmp_path / "examples", 1, rows=8)
    return PipelineConfig(tmp_path / "examples", tmp_path / "pipeline", tmp_path / "models")


def test_a_second_pipeline_on_the_same_root_is_refused(config):
    config.pipeline_root.mkdir()
    with (
        filelock.FileLock(config.pipeline_root / ".pipeline.lock"),
        pytest.raises(RuntimeError, match=f"another pipeline is running in {config.pipeline_root}"),
    ):
        run_pipeline(config, 1)


def test_a_missing_span_is_refused(config):
    with pytest.raises(ValueError, match=r"there is no Span-2 in .*; it has the spans 1"):
        run_pipeline(config, 2)


def test_a_threshold_for_an_unknown_task_is_refused(config):
    config = dataclasses.replace(config, gate=GateConfig(smallest_value={"auc": {"gtr": 0.6}}))
    with pytest.raises(ValueError, match=r"thresholds for \['gtr'\]"):
        run_pipeline(config, 1)


def test_an_unknown_setting_of_the_model_is_refused(config):
    with pytest.raises(ValueError, match=r"model: unknown keys \['varaint'\]"):
        run_pipeline(dataclasses.replace(config, model={"varaint": "base"}), 1)


def test_a_configuration_of_the_server_without_the_model_is_refused_before_anything_is_trained(config, tmp_path):
    (tmp_path / "models.config").write_text('model_config_list { config { name: "other" base_path: "/o" } }')
    with pytest.raises(ValueError, match=r"has the models \['other'\], expected 'live_ranker' once"):
        run_pipeline(dataclasses.replace(config, models_config=tmp_path / "models.config"), 1)
