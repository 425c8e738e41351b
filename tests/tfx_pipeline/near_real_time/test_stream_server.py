"""StreamServer: which versions a server of one's own keeps, and a server that has ended."""

import contextlib
import os
import shutil
import signal
import time
import types
from typing import ClassVar

import pytest

import tfx_pipeline.near_real_time.server
from serving.model_service_client import ModelServiceClient
from tests.serving.scorer_model import export_scorer, scorer_weights
from tfx_pipeline.near_real_time.server import StreamServer


class Service:
    """Keeps what servers are told."""

    told: ClassVar = []

    def __init__(self, address=None):
        pass

    def reload(self, configs):
        policy = configs[0].model_version_policy
        self.told.append(list(policy.specific.versions) or policy.latest.num_versions)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """With `launched`, the servers that were started, and `labels` as the store has them."""
    launched, started = [], []

    @contextlib.contextmanager
    def launch(model_dir, model_name, options):
        running = types.SimpleNamespace(address=f"host:{len(launched)}", has_ended=False, closed=False)
        launched.append(running)
        yield running
        running.closed = True

    monkeypatch.setattr(tfx_pipeline.near_real_time.server, "launch", launch)
    monkeypatch.setattr(tfx_pipeline.near_real_time.server, "ModelServiceClient", Service)
    monkeypatch.setattr(Service, "told", [])
    for version in (11, 12, 13, 14):
        (tmp_path / "ranker" / str(version)).mkdir(parents=True)
    with StreamServer(tmp_path, "ranker", None, started=started.append) as server:
        server.launched, server.told, labels = launched, started, {}
        server.labels = labels
        monkeypatch.setattr(StreamServer, "served_versions", lambda self: set(labels.values()))
        yield server
    assert all(running.closed for running in launched)


def test_versions_that_failed_on_their_way_do_not_push_out_the_one_with_the_label(server):
    server.start()
    server.announce(Service(), 11)
    server.labels["stable"] = 11
    for version in (12, 13, 14):  # promoting the first two fails
        server.announce(Service(), version)
    server.labels["canary"] = 3  # gone from the folder
    server.announce(Service(), 14)
    assert Service.told == [2, 2, [11, 12], [11, 13], [11, 14], [11, 14]]


def test_a_server_that_has_ended_is_replaced(server):
    server.start()
    server.start()
    assert (server.told, server.has_ended) == (["host:0"], False)
    server.model_config.version_labels["stable"] = 11  # would be refused: the new server doesn't have it yet
    server.launched[0].has_ended = True
    assert server.has_ended
    server.start()
    assert server.launched[0].closed
    assert not server.launched[1].closed
    assert (server.address, server.told, server.has_ended) == ("host:1", ["host:0", "host:1"], False)
    assert not server.model_config.version_labels


def test_a_server_that_is_given_is_never_started(tmp_path):
    with StreamServer(tmp_path, "ranker", None, "host:5") as server:
        server.start()
        assert (server.address, server.has_ended, server.model_config) == ("host:5", False, None)


@pytest.mark.slow
def test_a_real_server_keeps_the_labelled_version_and_is_replaced_once_it_is_dead(tmp_path, monkeypatch):
    export = export_scorer(tmp_path / "export", scorer_weights(0))
    for version in (1, 2, 3, 4):
        shutil.copytree(export, tmp_path / "models" / "ranker" / str(version))
    labels = {"stable": 1}
    monkeypatch.setattr(StreamServer, "served_versions", lambda self: set(labels.values()))

    def available(server, version):
        with ModelServiceClient(server.address) as service:
            server.announce(service, version)
            service.wait_for_version("ranker", version, 30.0)
            return {known for known, status in service.status("ranker").items() if status.state == "AVAILABLE"}

    with StreamServer(tmp_path / "models", "ranker", None) as server:
        server.start()
        for version in (1, 2, 3, 4):  # promoting 2 and 3 fails
            assert {1, version} <= available(server, version)
        first, pid = server.address, server._running.pid
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 20
        while not server.has_ended:
            assert time.monotonic() < end
            time.sleep(0.05)
        server.start()
        assert server.address != first
        assert {1, 4} <= available(server, 4)
