import dataclasses
from pathlib import Path

import pytest

from tfx_pipeline.config import GateConfig, PipelineConfig, TrainingConfig, gate_from_json, load_config


def _load(tmp_path: Path, text: str) -> PipelineConfig:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return load_config(path)


def test_an_empty_file_gives_the_defaults_with_paths_beside_the_file(tmp_path):
    config = _load(tmp_path, "")
    assert config.examples == tmp_path / "examples"
    assert config.training == TrainingConfig()
    assert config.gate == GateConfig()
    assert config.models_config is None


def test_values_are_read_with_their_types(tmp_path):
    config = _load(
        tmp_path,
        """
        examples: /data/examples
        model_dir: ../served
        models_config: models.config
        model: {variant: base}
        training: {epochs: 2, learning_rate: 1}
        gate:
          smallest_value: {auc: {ctr: 0.7, "*": 0.5}}
          largest_loss: {}
        """,
    )
    assert config.examples == Path("/data/examples")
    assert config.model_dir == tmp_path / "../served"
    assert config.models_config == tmp_path / "models.config"
    assert config.model == {"variant": "base"}
    assert config.training == TrainingConfig(epochs=2, learning_rate=1.0)
    assert isinstance(config.training.learning_rate, float)
    assert config.gate.smallest_value == {"auc": {"ctr": 0.7, "*": 0.5}}
    assert config.gate.largest_loss == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exmaples: here", "unknown keys ['exmaples']"),
        ("training: {epoch: 2}", "training: unknown keys ['epoch']"),
        ("training: {epochs: two}", "training: epochs: expected int, got 'two'"),
        ("training: {epochs: true}", "training: epochs: expected int, got True"),
        ("training: {epochs: 0}", "epochs must be a positive number, got 0"),
        ("training: {learning_rate: .inf}", "learning_rate must be a positive number, got inf"),
        ("training: 3", "training: expected keys with values, got 3"),
        ("gate: {smallest_value: {auc: {ctr: high}}}", "gate: smallest_value: auc: ctr: expected float, got 'high'"),
        ("gate: {largest_loss: {accuracy: {ctr: 0.1}}}", "largest_loss has thresholds for ['accuracy']"),
        ("model_name: a/b", "model_name must be the name of a folder, got 'a/b'"),
        ("examples: 3", "examples: expected a path, got 3"),
        ("models_config: ", "models_config: expected a path, got None"),
        ("examples: [", "not valid YAML"),
        ("- examples", "expected keys with values, got ['examples']"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    with pytest.raises(ValueError) as error:
        _load(tmp_path, text)
    assert said in str(error.value)
    assert "pipeline.yaml" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the configuration .*nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_gate_survives_json():
    gate = GateConfig(smallest_value={"gauc": {"ctr": 0.6}}, resamples=10)
    assert gate_from_json(dataclasses.asdict(gate)) == gate
