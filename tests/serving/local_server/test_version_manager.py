import gc
import threading
import time

import grpc
import pytest
from tensorflow_serving.apis import model_pb2

from serving.local_server.model_config import ModelConfig
from serving.local_server.serving_error import ServingError
from serving.local_server.serving_map import State
from serving.local_server.version_manager import LOAD_RETRIES, VersionManager


class FakeServable:
    """A model whose file `behave` says how loading it ends."""

    loads = 0

    def __init__(self, path):
        type(self).loads += 1
        self.path = path
        self.closed = False
        if (path / "broken").exists():
            raise RuntimeError("no model in here")

    def warm_up(self):
        if (self.path / "broken_warm_up").exists():
            raise RuntimeError("warm-up failed")
        return 0

    def close(self):
        self.closed = True


@pytest.fixture
def manager(monkeypatch):
    monkeypatch.setattr(
        gc, "collect", lambda: 0
    )  # takes long where all of TensorFlow is loaded, and nothing is to free
    FakeServable.loads = 0
    manager = VersionManager(FakeServable, poll_s=0.01, retry_s=0.03)
    yield manager
    manager.stop()


@pytest.fixture
def base(tmp_path):
    base = tmp_path / "ranker"
    base.mkdir()
    return base


def latest(name="ranker"):
    return model_pb2.ModelSpec(name=name)


def wait_until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def put(base, version, *flags):
    beside = base / ".beside"
    beside.mkdir()
    for flag in flags:
        (beside / flag).touch()
    beside.rename(base / str(version))


def states(manager):
    return {version: status.state for version, status in manager.serving.statuses("ranker", None).items()}


def test_an_old_version_is_freed_only_after_its_last_request(manager, base):
    put(base, 1)
    manager.start([ModelConfig("ranker", base)])
    with manager.serving.servable(latest()) as (version, old):
        assert version == 1
        put(base, 2)
        wait_until(lambda: manager.serving.versions("ranker") == {2})
        time.sleep(0.1)
        assert not old.closed
        assert states(manager) == {1: State.UNLOADING, 2: State.AVAILABLE}
        with manager.serving.servable(latest()) as (newer, _):
            assert newer == 2
    wait_until(lambda: old.closed)
    wait_until(lambda: states(manager) == {1: State.END, 2: State.AVAILABLE})


@pytest.mark.parametrize("flag", ["broken", "broken_warm_up"])
def test_a_failed_load_is_retried_and_stays_failed(manager, base, flag):
    put(base, 1)
    manager.start([ModelConfig("ranker", base)])
    put(base, 2, flag)
    wait_until(lambda: states(manager).get(2) == State.END)
    assert FakeServable.loads == 1 + 1 + LOAD_RETRIES
    time.sleep(0.2)
    assert FakeServable.loads == 1 + 1 + LOAD_RETRIES
    status = manager.serving.statuses("ranker", 2)[2]
    assert "RuntimeError" in status.error
    assert manager.serving.versions("ranker") == {1}


def test_a_failed_version_that_is_mended_is_served(manager, base):
    put(base, 2, "broken")
    manager.start([ModelConfig("ranker", base)])
    assert states(manager) == {2: State.LOADING}
    (base / "2" / "broken").unlink()
    wait_until(lambda: states(manager) == {2: State.AVAILABLE})
    assert manager.serving.statuses("ranker", 2)[2].error == ""


def test_a_failed_version_that_is_replaced_by_a_newer_one_is_forgotten(manager, base):
    put(base, 1, "broken")
    manager.start([ModelConfig("ranker", base)])
    put(base, 2)
    wait_until(lambda: states(manager) == {1: State.END, 2: State.AVAILABLE})


def test_a_base_path_that_is_away_takes_nothing_away(manager, base):
    put(base, 1)
    manager.start([ModelConfig("ranker", base)])
    base.rename(base.with_name("away"))
    time.sleep(0.1)
    assert manager.serving.versions("ranker") == {1}
    base.with_name("away").rename(base)
    put(base, 2)
    wait_until(lambda: manager.serving.versions("ranker") == {2})


def test_a_model_without_versions_is_waited_for(manager, base):
    manager.start([ModelConfig("ranker", base)])
    with pytest.raises(ServingError, match=r"Latest\(ranker\)") as caught, manager.serving.servable(latest()):
        pass
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    put(base, 1)
    wait_until(lambda: manager.serving.versions("ranker") == {1})


def test_a_reload_with_a_model_that_cannot_be_loaded_says_so(manager, base):
    manager.start([])
    put(base, 1, "broken")
    with pytest.raises(ServingError, match=r"1 model\(s\) did not become available: .*no model in here"):
        manager.reload([ModelConfig("ranker", base)])


def test_a_version_that_was_given_up_is_tried_again_when_its_model_is_configured_anew(manager, base):
    put(base, 1, "broken")
    manager.start([ModelConfig("ranker", base)])
    wait_until(lambda: states(manager) == {1: State.END})
    manager.reload([])
    (base / "1" / "broken").unlink()
    manager.reload([ModelConfig("ranker", base)])
    assert manager.serving.versions("ranker") == {1}


def test_labels_move_while_the_next_version_is_prepared(base, monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)
    preparing, go, moved = threading.Event(), threading.Event(), threading.Event()

    def prepare(_):
        preparing.set()
        go.wait(10)

    def move():
        manager.reload([ModelConfig("ranker", base, labels={"stable": 1})])
        moved.set()

    put(base, 1)
    manager = VersionManager(FakeServable, poll_s=0.01, prepare=prepare)
    manager.start([ModelConfig("ranker", base)])
    mover = threading.Thread(target=move)
    try:
        assert preparing.wait(5)
        mover.start()
        assert moved.wait(2)
        assert manager.serving.labels() == {("ranker", "stable"): 1}
    finally:
        go.set()
        mover.join()
        manager.stop()


def test_statuses_of_ended_versions_do_not_pile_up(manager, base):
    manager.start([ModelConfig("ranker", base, latest=1)])
    for version in range(1, 41):
        put(base, version)
        wait_until(lambda version=version: manager.serving.versions("ranker") == {version})
    wait_until(lambda: len(states(manager)) <= 22)
    assert max(states(manager)) == 40


def test_many_threads_ask_while_versions_come_and_go(manager, base):
    put(base, 1)
    manager.start([ModelConfig("ranker", base)])
    stop, failures = threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                with manager.serving.servable(latest()) as (_, servable):
                    if servable.closed:
                        failures.append("closed while in use")
            except ServingError as error:
                failures.append(error.message)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(2, 30):
        put(base, version)
        wait_until(lambda version=version: version in manager.serving.versions("ranker"))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
