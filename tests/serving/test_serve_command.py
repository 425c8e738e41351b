from pathlib import Path

import pytest
from click.testing import CliRunner

import serving.serve_forever
from serving.local_server.server_options import ServerOptions
from serving.serve_command import serve


@pytest.fixture
def started(monkeypatch):
    """(models, config_file, options) of each start."""
    calls = []
    monkeypatch.setattr(
        serving.serve_forever,
        "serve_forever",
        lambda models, *, config_file, options: calls.append((models, config_file, options)),
    )
    return calls


def test_without_options_the_defaults_are_those_of_the_server(started):
    assert CliRunner().invoke(serve, []).exit_code == 0
    assert started == [({"live_ranker": Path("build/demo/models/live_ranker")}, None, ServerOptions())]


def test_each_option_reaches_the_server(started, tmp_path):
    file = tmp_path / "file"
    file.touch()
    arguments = (
        "--host ::1 --port 1 --no-rest --poll-seconds 0.5 --no-prepare-next --model-config-file-poll-wait-seconds 2 "
        "--allow-version-labels-for-unavailable-models --max-active-requests 3 --max-waiting-requests 4 "
        "--max-message-bytes 5000 --request-seconds 6 --idle-seconds 7 --max-rest-connections 8 --keepalive-seconds 9 "
        "--enable-serialization-as-tensor-content --enable-batching --tensorflow-intra-op-parallelism 10 "
        f"--tensorflow-inter-op-parallelism -1 --ssl-config-file {file} --batching-parameters-file {file} "
        f"--model-config-file {file}"
    )
    result = CliRunner().invoke(serve, arguments.split())
    assert result.exit_code == 0, result.output
    ((_, config_file, options),) = started
    assert config_file == file
    assert options == ServerOptions(
        host="::1",
        port=1,
        rest_port=None,
        poll_s=0.5,
        prepare_next=False,
        config_poll_s=2.0,
        labels_before_versions=True,
        active=3,
        waiting=4,
        max_message_bytes=5000,
        request_s=6.0,
        idle_s=7.0,
        rest_connections=8,
        keepalive_s=9.0,
        tensor_content=True,
        ssl_config=file,
        batching=True,
        batching_parameters=file,
        intra_op_threads=10,
        inter_op_threads=-1,
    )


def test_parameters_for_batching_need_batching(started, tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(serve, ["--batching-parameters-file", str(tmp_path / "file")])
    assert result.exit_code == 1
    assert "batching isn't enabled" in result.output and started == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-active-requests", "0"],
        ["--max-waiting-requests", "-1"],
        ["--poll-seconds", "0"],
        ["--request-seconds", "0"],
        ["--ssl-config-file", "/none"],
    ],
)
def test_senseless_values_are_refused(started, arguments):
    assert CliRunner().invoke(serve, arguments).exit_code == 2
    assert started == []
