"""Labels in the configuration file: at the start, and moved by rewriting it."""

import shutil
import time

import pytest

from serving.local_server.config_file_follower import ConfigFileFollower
from serving.local_server.model_config import ModelConfig
from serving.local_server.model_server import ModelServer
from serving.local_server.server_options import ServerOptions
from serving.local_server.serving_error import ServingError
from serving.prediction_client import PredictionClient
from serving.ranking_error import RankingError


@pytest.fixture
def base(tmp_path, export_model):
    """Versions 1 (bias 0) and 2 (bias 1)."""
    for version, bias in ((1, 0.0), (2, 1.0)):
        shutil.copytree(export_model(bias), tmp_path / "m" / str(version))
    return tmp_path / "m"


@pytest.fixture
def write(base):
    """Labels by name -> the configuration file with them, replaced at once."""

    def write(text=None, **labels):
        entries = " ".join(f"version_labels {{ key: '{name}' value: {number} }}" for name, number in labels.items())
        model = f"name: 'm' base_path: '{base}' model_platform: 'tensorflow' model_version_policy {{ all {{}} }}"
        beside = base.parent / ".models.config"
        beside.write_text(text or f"model_config_list {{ config {{ {model} {entries} }} }}")
        return beside.rename(base.parent / "models.config")

    return write


@pytest.fixture
def start():
    servers = []

    def start(path, **options):
        chosen = ServerOptions(port=0, rest_port=None, poll_s=0.05, prepare_next=False, **options)
        servers.append(ModelServer(ModelConfig.from_file(path), chosen, config_file=path))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop(0.2)


def test_labels_move_with_the_file(write, start, room_inputs):
    server = start(write(), config_poll_s=0.05)
    with PredictionClient(server.address, "m", deadline_s=5) as client:

        def answers(version, label="stable"):
            try:
                return client.predict(room_inputs(1), label=label).version == version
            except RankingError:
                return False

        def wait_until(condition):
            end = time.monotonic() + 10
            while not condition():
                assert time.monotonic() < end
                time.sleep(0.02)

        write(stable=1, canary=2)
        wait_until(lambda: answers(1) and answers(2, "canary"))
        write(stable=2)
        wait_until(lambda: answers(2))
        with pytest.raises(RankingError, match="Unrecognized servable version label: canary"):
            client.predict(room_inputs(1), label="canary")
        for broken in ({"text": "nonsense"}, {"stable": 7}):
            write(**broken)
            time.sleep(0.2)
            assert answers(2)
        write(stable=1)
        wait_until(lambda: answers(1))


def test_labels_at_the_start_need_the_flag_as_with_tensorflow_serving(write, start, room_inputs):
    path = write(stable=1)
    with pytest.raises(ServingError, match="label to version 1 of model m, which is not currently available"):
        start(path)
    server = start(path, labels_before_versions=True)
    with PredictionClient(server.address, "m", deadline_s=5) as client:
        assert client.predict(room_inputs(1), label="stable").version == 1


def test_with_the_flag_new_labels_may_wait_for_their_version_but_old_ones_never_do(write, start, room_inputs):
    server = start(write(stable=1, canary=9), labels_before_versions=True)
    with PredictionClient(server.address, "m", deadline_s=5) as client:
        with pytest.raises(RankingError, match=r"Servable not found for request: Specific\(m, 9\)") as caught:
            client.predict(room_inputs(1), label="canary")
        assert caught.value.code == "NOT_FOUND"
        with pytest.raises(ServingError, match="label to version 8 of model m"):
            server.manager.reload(ModelConfig.from_file(write(stable=8)))
        assert client.predict(room_inputs(1), label="stable").version == 1


def test_a_file_that_stays_wrong_is_logged_once(tmp_path, caplog):
    (tmp_path / "models.config").write_text("nonsense")
    applied = []
    follower = ConfigFileFollower(tmp_path / "models.config", 0.01, applied.append)
    follower.start()
    time.sleep(0.2)
    follower.stop()
    assert applied == []
    assert len([record for record in caplog.records if "Could not apply" in record.message]) == 1
