"""The room-side job, against a server that does what the test says."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf import text_format

from beam_transforms.online_store import open_online_store
from beam_transforms.schema import WINDOW_MS
from beam_transforms.served import Served
from serving import rooms_command as rooms_module
from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError
from serving.room_follower import RoomFollower
from serving.room_side import RoomSide
from serving.rooms_command import rooms as rooms_command
from tests.beam_transforms.stored_tables import (
    BEGIN_MS,
    ROOMS,
    ROOT,
    SMALL_SCHEMA,
    USERS,
    fill,
    tables,
)
from tests.serving.fake_model_server import FakeModelServer

MODEL = "ranker"


@pytest.fixture(scope="module")
def running():
    server = FakeModelServer()
    yield server
    server.server.stop(None)


@pytest.fixture
def server(running):
    running.sizes, running.states, running.configs, running.calls = {1: 3}, {}, [], []
    running.before, running.change = lambda method, context: None, lambda vectors: vectors
    running.inputs = ("statistic_sequence", "statistic_mask")
    return running


@pytest.fixture
def store(tmp_path):
    fill(tmp_path / "store")
    with open_online_store(tmp_path / "store", readonly=False) as store:
        yield store


@pytest.fixture
def config():
    config = api.ModelConfig(name=MODEL, base_path="/models/ranker", model_platform="tensorflow")
    config.model_version_policy.latest.num_versions = 2
    return config


@pytest.fixture
def room_side(server, store, config):
    with RoomSide(store, server.address, MODEL, model_config=config, batch=4) as room_side:
        yield room_side


def _check(store, version, label="stable", rooms=ROOMS):
    """What a reader gets: vectors of all rooms by `version`, from the features that it gets with them."""
    found = store.rank_request(1, label=label)
    assert (found.version, found.live_ids.tolist()) == (version, list(rooms))
    assert found.has_foresight.all()
    expected = FakeModelServer.vectors(version, found.foresight.shape[1], found.inputs["statistic_sequence"])
    np.testing.assert_array_equal(found.foresight, expected.astype(np.float32))
    return found


def _next_window(store, rooms=ROOMS[:2], live=ROOMS, seed=5):
    as_of_ms = store.as_of_ms + WINDOW_MS
    store.write(SMALL_SCHEMA, as_of_ms, tables(SMALL_SCHEMA, rooms, USERS, as_of_ms, seed=seed), np.asarray(live))
    return as_of_ms


def test_a_promotion_stores_vectors_of_all_rooms_and_moves_labels(server, store, room_side):
    report = room_side.promote(1)
    assert (report.event, report.versions, report.label, report.rooms) == ("promote", (1,), "stable", 6)
    assert (report.as_of_ms, report.forgotten, report.skipped) == (BEGIN_MS, 0, ())
    assert min(report.read_s, report.forecast_s, report.write_s) > 0
    found = _check(store, 1)
    assert found.foresight.shape == (6, 3) and set(found.foresight_as_of_ms.tolist()) == {BEGIN_MS}
    assert store.served == Served({"stable": 1}, {1: 3})
    assert sorted(call for call in server.calls if isinstance(call, tuple)) == [(1, 2), (1, 4)]
    (told,) = server.configs
    assert dict(told.version_labels) == {"stable": 1} and told.model_version_policy.latest.num_versions == 2


def test_the_version_before_is_kept_until_the_next_promotion(server, store, room_side):
    server.sizes |= {2: 4, 3: 2}
    assert [room_side.promote(version).forgotten for version in (1, 2)] == [0, 0]
    assert store.served == Served({"stable": 2}, {1: 3, 2: 4}) and store.foresight_versions == (1, 2)
    assert room_side.promote(2).forgotten == 0 and store.foresight_versions == (1, 2)  # again: nothing changes
    assert store.served == Served({"stable": 2}, {1: 3, 2: 4})
    assert room_side.promote(3).forgotten == 6
    assert store.served == Served({"stable": 3}, {2: 4, 3: 2}) and store.foresight_versions == (2, 3)
    _check(store, 3)
    for left in (1, 4):  # by jobs that ended too early, or that are at work
        store.write_foresight(left, ROOMS, np.zeros((6, 5)), BEGIN_MS)
    assert room_side.promote(2).forgotten == 6 and store.foresight_versions == (2, 3, 4)
    server.sizes[5] = 2
    assert room_side.promote(5).forgotten == 12 and store.foresight_versions == (2, 5)


def test_a_canary_beside_the_stable_version(server, store, room_side):
    server.sizes[2] = 4
    room_side.promote(1)
    room_side.promote(2, "canary")
    _check(store, 1)
    _check(store, 2, "canary")
    assert dict(server.configs[0].version_labels) == {"stable": 1, "canary": 2}
    _next_window(store)
    server.calls.clear()
    report = room_side.refresh()
    assert (report.event, report.versions, report.label, report.rooms) == ("refresh", (1, 2), None, 4)
    _check(store, 1)
    _check(store, 2, "canary")


def test_a_model_without_forecasts_is_promoted_without_vectors(server, store, room_side):
    server.sizes[2] = 0
    room_side.promote(1)
    report = room_side.promote(2)
    assert (report.rooms, report.as_of_ms, report.read_s) == (0, BEGIN_MS, 0)
    assert store.served == Served({"stable": 2}, {1: 3, 2: 0})
    found = store.rank_request(1)
    assert (found.version, found.foresight.shape) == (2, (6, 0))
    assert dict(server.configs[0].version_labels) == {"stable": 2}
    _next_window(store)
    assert (room_side.refresh().rooms, room_side.refresh().versions) == (0, (2,))


def test_a_refresh_computes_what_changed(server, store, room_side):
    assert room_side.refresh().versions == ()  # nothing is served yet
    room_side.promote(1)
    assert room_side.refresh().rooms == 0
    now = _next_window(store, [11, 15, 70], [*ROOMS[1:], 70])
    server.calls.clear()
    report = room_side.refresh()
    assert (report.rooms, report.as_of_ms, report.skipped) == (3, now, ())
    assert [call for call in server.calls if isinstance(call, tuple)] == [(1, 3)]
    found = _check(store, 1, rooms=[*ROOMS[1:], 70])
    assert found.foresight_as_of_ms.tolist() == [now, BEGIN_MS, BEGIN_MS, BEGIN_MS, now, now]
    assert room_side.refresh().rooms == 0


def test_another_process_goes_on_where_one_ended(server, store, room_side, tmp_path):
    """What has to be computed follows from the store alone, also after it was replaced as of the same time."""
    room_side.promote(1)
    now = _next_window(store)
    with RoomSide(store, server.address, MODEL, model_config=None) as other:
        assert other.refresh().rooms == 2
        fill(tmp_path / "store", now, seed=8)
        assert other.refresh().rooms == 6
    _check(store, 1)


def test_a_refresh_skips_a_version_that_is_gone(server, store, room_side, caplog):
    server.sizes[2] = 3
    room_side.promote(1)
    room_side.promote(2, "canary")
    server.states[1] = "END"
    _next_window(store)
    with caplog.at_level(logging.WARNING):
        report = room_side.refresh()
    assert (report.versions, report.skipped, report.rooms) == ((2,), (1,), 2)
    assert "vectors of version 1 of ranker aren't refreshed: it is END" in caplog.text
    _next_window(store)
    server.states = {}
    room_side.refresh()

    def unload(method, context):
        if method == "Predict":
            server.states[2] = "END"

    server.before = unload
    _next_window(store)
    with caplog.at_level(logging.WARNING):
        assert room_side.refresh().skipped == (2,)
    assert "the server unloaded version 2 of ranker" in caplog.text


@pytest.mark.parametrize("version", [5, 2])
def test_only_an_available_version_is_promoted(server, store, room_side, version):
    server.sizes[2], server.states[2] = 3, "LOADING"
    room_side.promote(1)
    with pytest.raises(RankingError, match=f"version {version} of model 'ranker' can't be promoted: .*2: 'LOADING'"):
        room_side.promote(version)
    assert store.served == Served({"stable": 1}, {1: 3}) and store.foresight_versions == (1,)


def test_no_server_changes_nothing(store):
    with (
        RoomSide(store, "127.0.0.1:1", MODEL, model_config=None) as room_side,
        pytest.raises(RankingError, match="no model server can be reached"),
    ):
        room_side.promote(1)
    assert store.served == Served()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vectors: vectors * np.nan, r"18 entries of it not finite|12 entries"),
        (lambda vectors: vectors[1:], r"answered with 'foresight' of shape"),
        (lambda vectors: vectors[:, 1:], r"answered with 'foresight' of shape"),
    ],
)
def test_vectors_that_can_not_be_are_not_stored(server, store, room_side, change, message):
    server.change = change
    with pytest.raises(RankingError, match=message):
        room_side.promote(1)
    assert store.served == Served() and store.foresight_versions == ()


def test_a_model_of_another_schema_is_named(server, store, room_side):
    server.inputs = ("statistic_sequence", "semantic_ids")
    with pytest.raises(RankingError, match=r"takes the inputs \['semantic_ids'\], which the store doesn't have"):
        room_side.promote(1)
    server.sizes[2] = -1
    with pytest.raises(RankingError, match=r"expected 'foresight' of shape \(rooms, F\)"):
        room_side.promote(2)


class EndedError(BaseException):
    """Stands for the end of the process."""


class Steps:
    """Counts the calls of what it wraps, and ends the job at the `at`-th one, before or after that is done."""

    def __init__(self, at, after):
        self.at, self.after, self.count = at, after, 0

    def call(self, do):
        self.count += 1
        if self.count != self.at:
            return do()
        if self.after:
            do()
        raise EndedError

    def wrap(self, inner):
        steps = self

        class Wrapped:
            def __getattr__(self, name):
                if name in ("served", "foresight_versions", "as_of_ms"):
                    return steps.call(lambda: getattr(inner, name))
                return lambda *values, **named: steps.call(lambda: getattr(inner, name)(*values, **named))

        return Wrapped()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_job_that_ends_at_any_step_leaves_one_version_whole(server, tmp_path, config, after):
    """Each call of store and server is the last one once: readers have version 2 or 3, and the next try mends it."""
    server.sizes = {1: 3, 2: 4, 3: 2}
    parts = ("_store", "_service", "_forecaster", "_labels")
    versions = []
    for at in range(1, 40):
        fill(tmp_path / str(at))
        with (
            open_online_store(tmp_path / str(at), readonly=False) as store,
            RoomSide(store, server.address, MODEL, model_config=config, batch=4) as room_side,
        ):
            room_side.promote(1)
            room_side.promote(2)
            whole, steps = {name: getattr(room_side, name) for name in parts}, Steps(at, after)
            for name, part in whole.items():
                setattr(room_side, name, steps.wrap(part))
            with contextlib.suppress(EndedError):
                room_side.promote(3)
            versions.append(store.rank_request(1).version)
            _check(store, versions[-1])
            for name, part in whole.items():
                setattr(room_side, name, part)
            room_side.promote(3)
            _check(store, 3)
            assert store.served.labels == {"stable": 3} and store.foresight_versions[-1] == 3
            assert dict(server.configs[0].version_labels) == {"stable": 3}
        if steps.count < at:
            break
    assert at > 10 and versions == sorted(versions) and set(versions) == {2, 3}


def test_a_server_that_ends_while_it_forecasts_leaves_the_old_version(server, store, room_side):
    server.sizes[2] = 3
    room_side.promote(1)

    def fail(method, context):
        if method == "Predict" and (2, 4) in server.calls:
            context.abort(grpc.StatusCode.INTERNAL, "gone")

    server.before = fail
    room_side._forecaster._batch = 2
    server.calls.append((2, 4))
    with pytest.raises(RankingError, match="gone"):
        room_side.promote(2)
    _check(store, 1)
    assert store.served == Served({"stable": 1}, {1: 3}) and dict(server.configs[0].version_labels) == {"stable": 1}
    server.calls.clear()
    room_side.promote(2)
    _check(store, 2)


FILE = """# Served by two servers.
# Labels are moved by foresight rooms.
model_config_list {
  config { name: "other" base_path: "/models/other" model_platform: "tensorflow" }
  config {
    name: "ranker"  # this comment goes
    base_path: "/models/ranker"
    model_platform: "tensorflow"
    model_version_policy { latest { num_versions: 2 } }
    version_labels { key: "canary" value: 2 }
    version_labels { key: "old" value: 9 }
  }
}
"""


def test_the_file_of_the_server_keeps_the_label(server, store, tmp_path, caplog):
    server.sizes[2] = 3
    file = tmp_path / "models.config"
    file.write_text(FILE)
    with (
        RoomSide(store, server.address, MODEL, model_config=file) as room_side,
        caplog.at_level(logging.WARNING),
    ):
        room_side.promote(1)
    assert "label 'old' goes: the server has no version 9 of ranker" in caplog.text
    text, config = file.read_text(), api.ModelServerConfig()
    text_format.Parse(text, config)
    assert list(config.model_config_list.config) == server.configs
    other, ranker = server.configs
    assert (other.name, other.base_path, dict(other.version_labels)) == ("other", "/models/other", {})
    assert dict(ranker.version_labels) == {"stable": 1, "canary": 2}
    assert ranker.model_version_policy.latest.num_versions == 2
    assert text.startswith("# Served by two servers.\n# Labels are moved by foresight rooms.\nmodel_config_list")
    written = file.stat().st_mtime_ns
    with RoomSide(store, server.address, MODEL, model_config=file) as room_side:
        room_side.promote(1)
    assert file.stat().st_mtime_ns == written and [path.name for path in tmp_path.iterdir()].count("models.config") == 1
    assert len(list(tmp_path.iterdir())) == 2  # and the store


def test_a_label_that_is_served_is_never_dropped(server, store, config):
    """Version 3 comes while 2 is compared with 1, and the server unloads 1: users of "stable" still ask for it."""
    server.sizes |= {2: 3, 3: 3}
    with RoomSide(store, server.address, MODEL, model_config=config) as room_side:
        room_side.promote(1)
        room_side.promote(2, "canary")
        server.states[1] = "END"
        server.calls.clear()
        with pytest.raises(RankingError, match=r"the labels {'stable': 1} are served, .* specific { versions"):
            room_side.promote(3, "canary")
    assert not [call for call in server.calls if isinstance(call, tuple)], "nothing is computed in vain"
    assert store.served.labels == {"stable": 1, "canary": 2}
    assert dict(config.version_labels) == dict(server.configs[0].version_labels) == {"stable": 1, "canary": 2}


def test_a_promotion_that_is_tried_again_computes_nothing_twice(server, store, room_side):
    server.sizes[2] = 3
    room_side.promote(1)

    def refuse(method, context):
        if method == "HandleReloadConfigRequest":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")

    server.before = refuse
    for _ in range(3):
        with pytest.raises(RankingError, match="not now"):
            room_side.promote(2)
    server.before = lambda method, context: None
    _next_window(store)
    assert room_side.promote(2).rooms == 2
    _check(store, 2)
    calls = [call for call in server.calls if isinstance(call, tuple) and call[0] == 2]
    assert sorted(calls) == [(2, 2), (2, 2), (2, 4)] and calls[-1] == (2, 2)  # blocks of one promotion go side by side
    assert room_side.promote(2).rooms == 6  # what is promoted anew is computed anew


def test_a_version_that_fails_does_not_hold_up_the_others(server, store, room_side):
    server.sizes[2] = 4
    room_side.promote(1)
    room_side.promote(2, "canary")
    server.change = lambda vectors: vectors * np.nan if vectors[0, 0] == 1 else vectors
    _next_window(store)
    with pytest.raises(RankingError, match="version 1 answered"):
        room_side.refresh()
    _check(store, 2, "canary")
    server.change = lambda vectors: vectors
    assert room_side.refresh().rooms == 2
    _check(store, 1)


def test_a_server_that_refuses_leaves_the_file(server, store, tmp_path):
    server.sizes[2], server.states[2] = 3, "LOADING"
    file = tmp_path / "models.config"
    file.write_text(FILE)
    with (
        RoomSide(store, server.address, MODEL, model_config=file) as room_side,
        pytest.raises(RankingError, match="label on version 2, not available"),
    ):
        room_side.promote(1)
    assert file.read_text() == FILE
    _check(store, 1)  # what readers go by has moved


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is not a ModelServerConfig, or has a field that would be lost"),
        ('model_config_list { config { name: "ranker" logging_config {} } }', "has a field that would be lost"),
        ('model_config_list { config { name: "x" } }', r"has the models \['x'\], expected 'ranker' once"),
    ],
)
def test_a_file_that_can_not_be_rewritten_is_an_error_at_once(store, tmp_path, text, message):
    (tmp_path / "models.config").write_text(text)
    with pytest.raises(ValueError, match=message):
        RoomSide(store, "127.0.0.1:1", MODEL, model_config=tmp_path / "models.config")
    with pytest.raises(ValueError, match="batch must be at least 1 room, got 0"):
        RoomSide(store, "127.0.0.1:1", MODEL, model_config=None, batch=0)


def test_a_job_follows_server_and_store(server, store, room_side):
    follower = RoomFollower(room_side, room_side._service, store, MODEL)
    done = follower.step()
    assert (done.event, done.versions) == ("promote", (1,)) and follower.step() is None
    _next_window(store)
    assert follower.step().event == "refresh" and follower.step() is None
    server.sizes[2], server.states[2] = 4, "LOADING"
    assert follower.step() is None
    server.states = {}
    done = follower.step()
    assert (done.event, done.versions) == ("promote", (2,))
    server.states[2] = "END"  # taken back
    assert follower.step().versions == (1,)
    _check(store, 1)
    server.sizes = {}
    with pytest.raises(RankingError, match="NOT_FOUND"):
        follower.step()
    server.sizes = {1: 3}
    assert follower.step() is None


def test_a_store_that_is_replaced_as_of_the_same_time_gets_its_vectors_back(server, store, room_side, tmp_path):
    server.sizes[2] = 0
    room_side.promote(2, "without")
    follower = RoomFollower(room_side, room_side._service, store, MODEL, None)
    room_side.promote(1)
    follower.step()
    fill(tmp_path / "store", seed=8)
    done = follower.step()
    assert (done.event, done.rooms, done.as_of_ms) == ("refresh", 6, BEGIN_MS) and follower.step() is None
    _check(store, 1)

    def replace(method, context):
        if method == "Predict":
            server.before = lambda method, context: None
            fill(tmp_path / "store", seed=9)

    server.before = replace  # while vectors of the features before are computed
    fill(tmp_path / "store", seed=8)
    follower.step()
    assert store.foresight_versions == () and follower.step().rooms == 6 and follower.step() is None
    _check(store, 1)


def test_a_replaced_store_gets_its_vectors_back_after_a_promotion(server, store, room_side, tmp_path):
    follower = RoomFollower(room_side, room_side._service, store, MODEL)
    follower.step()
    fill(tmp_path / "store", rooms=ROOMS[:0])
    assert follower.step() is None
    fill(tmp_path / "store", seed=8)
    assert follower.step().rooms == 6 and follower.step() is None
    _check(store, 1)


def test_a_promotion_leaves_no_window_out_for_other_versions(server, store, room_side):
    server.sizes[2], server.states[2] = 4, "LOADING"
    room_side.promote(1)
    follower = RoomFollower(room_side, room_side._service, store, MODEL, "next")
    follower.step()
    _next_window(store)
    server.states = {}
    assert [follower.step().event for _ in range(2)] == ["promote", "refresh"]
    _check(store, 1)
    assert follower.step() is None


def test_a_job_that_only_refreshes_promotes_nothing(server, store, room_side):
    server.sizes[2] = 4
    room_side.promote(1)
    follower = RoomFollower(room_side, room_side._service, store, MODEL, None)
    assert follower.step().versions == (1,) and follower.step() is None
    room_side.promote(2, "canary")  # by another process, before or after this window
    assert follower.step().versions == (1, 2) and follower.step() is None
    server.sizes[3] = 3
    _next_window(store)
    assert follower.step().versions == (1, 2) and follower.step() is None
    assert store.served.labels == {"stable": 1, "canary": 2}
    _check(store, 1)
    _check(store, 2, "canary")


def test_what_fails_is_tried_again_after_longer_and_longer(server, store, tmp_path, monkeypatch, capsys):
    server.sizes, waits = {}, []

    class Ended:
        def is_set(self):
            return len(waits) == 11

        def wait(self, seconds):
            waits.append(seconds)
            server.sizes = {1: 3} if len(waits) in (7, 8) else {}

    monkeypatch.setattr(rooms_module, "threading", SimpleNamespace(Event=Ended))
    monkeypatch.setattr(rooms_module.signal, "signal", lambda *_: None)
    rooms_module.follow_rooms(server.address, MODEL, str(tmp_path / "store"), None, "stable", False, True)
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 0.2, 0.2, 0.2, 0.4]
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["error", "promote", "error"]


def _invoke(*arguments):
    return CliRunner().invoke(rooms_command, [*map(str, arguments), "--model-name", MODEL, "--once"])


def test_the_command_promotes_once(server, store, tmp_path, config):
    file = tmp_path / "models.config"
    wrapped = api.ModelServerConfig()
    wrapped.model_config_list.config.add().CopyFrom(config)
    file.write_text(text_format.MessageToString(wrapped))
    arguments = ("--address", server.address, "--store", tmp_path / "store")
    result = _invoke(*arguments, "--models-config", file, "--json")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
    assert (line["event"], line["versions"], line["rooms"], line["label"]) == ("promote", [1], 6, "stable")
    assert "stable" in file.read_text()
    _check(store, 1)
    server.sizes[2] = 3
    assert "refreshed 1: 0 rooms" in _invoke(*arguments, "--refresh-only").output
    del server.sizes[2]
    assert "promoted 1 as next: 6 rooms" in _invoke(*arguments, "--label", "next").output
    server.sizes = {}
    assert "Error: " in _invoke(*arguments).output and _invoke(*arguments).exit_code == 1
    server.sizes, server.states = {1: 3}, {1: "LOADING"}
    assert "no version of model 'ranker' is available" in _invoke(*arguments).output
    result = _invoke("--address", server.address, "--store", tmp_path / "none")
    assert result.exit_code == 1 and "no online store here" in result.output and not (tmp_path / "none").exists()


def test_the_command_follows_until_it_is_told_to_end(server, store, tmp_path):
    """It is there before the server has a version, and says so once."""
    server.sizes = {}
    code = "from serving.rooms_command import rooms; rooms()"
    arguments = ["--address", server.address, "--model-name", MODEL, "--store", str(tmp_path / "store"), "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    ) as process:
        try:
            line = json.loads(process.stdout.readline())
            assert line["event"] == "error" and "NOT_FOUND" in line["message"]
            server.sizes = {1: 3}
            line = json.loads(process.stdout.readline())
            assert (line["event"], line["versions"]) == ("promote", [1])
            now = _next_window(store)
            line = json.loads(process.stdout.readline())
            assert (line["event"], line["rooms"], line["as_of_ms"]) == ("refresh", 2, now)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0 and process.stdout.read() == ""
        finally:
            process.kill()
    _check(store, 1)
