import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.launch import ADDRESS_VARIABLE, launch, server_kind, wait_for_version
from serving.prediction_client import PredictionClient
from serving.publisher import publish
from serving.ranking_error import RankingError

ROOT = Path(__file__).parents[2]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_ended(pid, seconds=20.0):
    end = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < end, f"process {pid} goes on"
        time.sleep(0.05)


def test_which_server_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server_kind() == "local"
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    assert server_kind() == "binary"
    monkeypatch.setenv(ADDRESS_VARIABLE, "127.0.0.1:8500")
    assert server_kind() == "external"


def test_a_server_that_ends_is_an_error_with_what_it_printed(monkeypatch, tmp_path):
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text('#!/bin/sh\necho "cannot serve: $@"; exit 7\n')
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with (
        pytest.raises(RuntimeError, match=r"ended with status 7; it printed:\ncannot serve: .*--model_name=ranker"),
        launch(tmp_path, "ranker", kind="binary"),
    ):
        pass


def test_a_server_is_in_a_session_of_its_own_so_that_ctrl_c_spares_it(monkeypatch, tmp_path):
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text(
        f"#!{sys.executable}\nimport os, sys\nprint('own session:', os.getsid(0) == os.getpid())\nsys.exit(7)\n"
    )
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(RuntimeError, match="own session: True"), launch(tmp_path, "ranker", kind="binary"):
        pass


def test_waiting_for_a_version_without_a_server_says_so():
    with pytest.raises(RankingError, match=r"not version 3 of model 'ranker' is available at .* after 0.2 s") as caught:
        wait_for_version("127.0.0.1:1", "ranker", 3, 0.2)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_published_versions_are_served(served, export_model, tmp_path, manifest, warmup, room_inputs):
    name = "published"
    publish(export_model(0.0), tmp_path, {**manifest, "model_name": name}, warmup)
    client = served.serve(name, tmp_path / name)
    assert client.predict(room_inputs(2)).version == 1
    publish(export_model(1.0), tmp_path, {**manifest, "model_name": name}, warmup)
    assert wait_for_version(served.running.address, name, 2, 20) == 2
    assert client.predict(room_inputs(2)).version == 2
    assert wait_for_version(served.running.address, name, None, 5) == 2


def test_an_external_server_is_told_what_to_serve(served, place, tmp_path, room_inputs, monkeypatch):
    place(tmp_path / "external", 1, 0.0)
    monkeypatch.setenv(ADDRESS_VARIABLE, served.running.address)
    with launch(tmp_path, "external") as running:
        assert (running.kind, running.pid, running.address) == ("external", None, served.running.address)
        with PredictionClient(running.address, "external", deadline_s=5) as client:
            assert client.predict(room_inputs(1)).version == 1


_STAND_IN = """#!{python}
import os, sys
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
model = flags["model_name"] + "=" + flags["model_base_path"]
ports = ["--port", flags["port"], "--rest-port", flags["rest_api_port"]]
os.chdir({root!r})
os.execv({python!r}, [{python!r}, "-m", "serving.local_server", "--model-name", model, *ports])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "binary"])
def test_a_server_lives_as_long_as_its_block(place, tmp_path, room_inputs, monkeypatch, kind):
    """For "binary" the local server stands in for tensorflow_model_server, behind that one's flags."""
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text(_STAND_IN.format(python=sys.executable, root=str(ROOT)))
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place(tmp_path / "ranker", 1, 0.0)
    with launch(tmp_path, "ranker", kind=kind) as running:
        with PredictionClient(running.address, "ranker", deadline_s=5) as client:
            assert client.predict(room_inputs(2)).version == 1
        connection = http.client.HTTPConnection(running.rest_address, timeout=5)
        connection.request("GET", "/v1/models/ranker")
        assert connection.getresponse().status == 200
        assert is_running(running.pid)
        assert not running.has_ended
        if kind == "local":
            os.kill(running.pid, signal.SIGKILL)
            running.process.wait(20)
            assert running.has_ended
    assert not is_running(running.pid)


_PARENT = """
import signal, sys, time
from pathlib import Path
from serving.launch import launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background inherit that it is ignored
with launch(Path(sys.argv[1]), "ranker", kind="local") as running:
    print(running.pid, flush=True)
    while True:
        time.sleep(0.2)  # a signal that another thread gets doesn't wake this one
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_server_ends_with_its_parent(place, tmp_path, number):
    place(tmp_path / "ranker", 1, 0.0)
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.send_signal(number)
    parent.wait(60)
    wait_until_ended(pid)
    parent.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_cleanly_with_a_signal(place, tmp_path, number):
    place(tmp_path / "ranker", 1, 0.0)
    command = [sys.executable, "-m", "serving.local_server", "--model-dir", str(tmp_path), "--model-name", "ranker"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--rest-port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    addresses = json.loads(process.stdout.readline())
    assert addresses["grpc_address"].startswith("127.0.0.1:")
    host, port = addresses["rest_address"].split(":")
    with socket.create_connection((host, int(port))):  # an open connection doesn't hold it up
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "")
    assert "Traceback" not in errors
