"""LabelConfig; moving a label is tested with the room side, withdrawing with the canary."""

from types import SimpleNamespace

import pytest
from google.protobuf import text_format

from serving.label_config import LabelConfig
from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError

CONFIG = """model_config_list {
  config { name: "other" base_path: "/o" version_labels { key: "stable" value: 3 } }
  config { name: "m" base_path: "/m" model_version_policy { specific { versions: 5 versions: 8 } }
           version_labels { key: "stable" value: 7 } version_labels { key: "canary" value: 8 } }
}"""


class FakeService:
    def __init__(self, states):
        self.states, self.told = states, []

    def status(self, model_name):
        assert model_name == "m"
        if not self.states:
            raise RankingError("NOT_FOUND", "no version")
        return {version: SimpleNamespace(state=state) for version, state in self.states.items()}

    def reload(self, configs):
        self.told.append({config.name: dict(config.version_labels) for config in configs})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "models.config"
    path.write_text(CONFIG)
    return path


def test_versions_that_labels_or_the_policy_name_are_pinned(path):
    assert LabelConfig(path, "m").pinned() == {5, 7, 8}
    assert LabelConfig(path, "other").pinned() == {3}


@pytest.mark.parametrize("states", [{7: "END", 8: "AVAILABLE"}, {}])
def test_a_label_can_be_withdrawn_when_the_version_of_another_is_gone(path, states):
    """The server would refuse the whole configuration for the label that is left."""
    service = FakeService(states)
    LabelConfig(path, "m").withdraw("canary", service)
    assert service.told == [{"other": {"stable": 3}, "m": {}}]
    written = text_format.Parse(path.read_text(), api.ModelServerConfig())
    assert [dict(model.version_labels) for model in written.model_config_list.config] == [{"stable": 3}, {}]


def test_labels_of_versions_that_the_server_has_stay(path):
    service = FakeService({7: "AVAILABLE", 8: "END"})
    LabelConfig(path, "m").withdraw("canary", service)
    assert service.told == [{"other": {"stable": 3}, "m": {"stable": 7}}]
