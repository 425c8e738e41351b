"""StreamPublisher and the start of a loop: nothing goes out over a version of someone else."""

import re
import shutil
import types

import pytest

import tfx_pipeline.near_real_time.publisher
import tfx_pipeline.near_real_time.run
from beam_transforms.schema import LIVE_SCHEMA
from serving.publish_error import PublishError
from tests.tfx_pipeline.near_real_time.stream_windows import LineTrainer, line_version, window
from tfx_pipeline.file_names import EXTRA_FOLDER, WEIGHTS_FILE
from tfx_pipeline.near_real_time.config import StreamConfig
from tfx_pipeline.near_real_time.learner import StreamLearner
from tfx_pipeline.near_real_time.publisher import StreamPublisher, loadable_versions
from tfx_pipeline.near_real_time.run import StreamPaths, _base, _ended, _learner
from tfx_pipeline.near_real_time.version_mark import version_mark


class Checkpoints:
    """Stands in for `CheckpointPublisher`: a push makes the next folder."""

    def __init__(self, model_dir, model_name, version, keep):
        self._base = model_dir / model_name

    def push(self, weights, manifest, protected):
        version = max(int(path.name) for path in self._base.iterdir()) + 1
        _version(self._base.parent, version)
        return version


def _version(model_dir, version, whole=True):
    folder = model_dir / "ranker" / str(version)
    folder.mkdir(parents=True)
    if whole:
        (folder / "saved_model.pb").touch()


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(tfx_pipeline.near_real_time.publisher, "CheckpointPublisher", Checkpoints)
    server = types.SimpleNamespace(model_dir=tmp_path, model_name="ranker", served_versions=set)
    return lambda seen: StreamPublisher(server, LIVE_SCHEMA, seen=seen)


def test_a_version_between_the_look_and_the_start_is_newer(make, tmp_path):
    _version(tmp_path, 1)
    publisher = make(max(loadable_versions(tmp_path, "ranker")))
    _version(tmp_path, 2)  # while the loop built its graphs
    publisher.go_on_from(1)
    assert publisher.newer_version() == 2
    with pytest.raises(PublishError, match="version 2 was published by another process"):
        publisher.push([], {})
    assert loadable_versions(tmp_path, "ranker") == [1, 2]
    publisher.go_on_from(2)
    assert publisher.push([], {}) == 3
    assert publisher.newer_version() is None


def test_before_a_first_model_a_version_of_another_process_is_seen(make, tmp_path, monkeypatch):
    publisher = make(0)
    assert publisher.newer_version() is None
    _version(tmp_path, 1)
    assert (publisher.newer_version(), publisher.has_base) == (1, False)
    monkeypatch.setattr(tfx_pipeline.near_real_time.publisher, "export_ranker", lambda ranker, path: path.mkdir())
    monkeypatch.setattr(tfx_pipeline.near_real_time.publisher, "warmup_requests", lambda *arguments: [])
    ranker = types.SimpleNamespace(config=types.SimpleNamespace(to_dict=dict))
    with pytest.raises(PublishError, match="version 1 was published by another process"):
        publisher.publish_first(ranker, [], {}, 8)


def test_what_no_server_could_load_is_no_version(make, tmp_path):
    _version(tmp_path, 1)
    _version(tmp_path, 2, whole=False)
    assert loadable_versions(tmp_path, "ranker") == [1]
    assert make(1).newer_version() is None


def test_a_loop_that_goes_on_has_left_the_base_that_was_asked_for_behind(tmp_path):
    paths = StreamPaths("live", tmp_path, tmp_path, "ranker", base=3)
    assert _base(paths, [3, 7], tmp_path) == 3
    StreamLearner(LineTrainer(), tmp_path)
    assert _base(paths, [7], tmp_path) == 7
    assert _base(paths, [], tmp_path) is None


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a loop from the newest version, as `foresight stream` does: the learner, in words, what was adopted."""
    stand_in = types.SimpleNamespace(from_version=lambda folder, training: LineTrainer())
    monkeypatch.setattr(tfx_pipeline.near_real_time.run, "StreamTrainer", stand_in)
    monkeypatch.setattr(tfx_pipeline.near_real_time.run, "require_schema", lambda *arguments: None)
    paths = StreamPaths("live", tmp_path, tmp_path, "ranker")
    return lambda newest: _learner(paths, StreamConfig(), LIVE_SCHEMA, newest, tmp_path / "stream")


def _whole_version(model_dir, version, slope, **manifest):
    folder = line_version(model_dir / "ranker", version, slope, **manifest)
    (folder / EXTRA_FOLDER).mkdir()
    (folder / EXTRA_FOLDER / WEIGHTS_FILE).touch()
    return folder


@pytest.mark.parametrize("known", [None, 1])
def test_what_the_pipeline_published_while_the_loop_stood_still_is_adopted_and_said(tmp_path, start, known):
    _whole_version(tmp_path, 5, 50.0)
    StreamLearner(LineTrainer(), tmp_path / "stream", version=known).learn(window(0))
    learner, _, adopted = start(5)
    assert (learner.version, learner.trainer.slope[0]) == (5, 50.0)
    assert learner.published == learner.number
    assert adopted == {"version": 5, "windows_dropped": 1}
    assert start(5)[2] is None


@pytest.mark.parametrize("newest", [2, 70])
def test_where_numbers_began_anew_the_old_weights_are_not_pushed_over_the_new_ones(tmp_path, start, newest):
    """As after a second `make demo`: the version that the state knows is gone, or another one has its number."""
    own = line_version(tmp_path / "ranker", 70, 1.0)
    learner = StreamLearner(LineTrainer(), tmp_path / "stream", version=70, mark=version_mark(own))
    learner.learn(window(0))
    assert start(70)[2] is None
    shutil.rmtree(own)
    line_version(tmp_path / "ranker", newest, 50.0, newest_event_ms=124)
    learner, words, adopted = start(newest)
    assert (learner.version, learner.trainer.slope[0]) == (newest, 50.0)
    assert adopted == {"version": newest, "windows_dropped": 1}
    assert "0 windows learned; version 70, which was published from it, is gone or another one now" in words
    assert learner.lineage.parent(learner.number) == newest
    assert start(newest)[2] is None


def test_pushes_of_another_loop_behind_a_version_that_was_replaced_are_not_taken_for_own_ones(tmp_path, start):
    own = line_version(tmp_path / "ranker", 2, 1.0)
    StreamLearner(LineTrainer(), tmp_path / "stream", version=2, mark=version_mark(own))
    line_version(tmp_path / "ranker", 3, 50.0)  # pushed, and the loop was killed before it noted that
    assert start(3)[2] is None
    shutil.rmtree(own)
    line_version(tmp_path / "ranker", 2, 9.0, newest_event_ms=124)
    assert start(3)[2] == {"version": 3, "windows_dropped": 0}


def test_while_the_loop_runs_numbers_that_begin_anew_are_seen(tmp_path, make):
    def version(number, newest_event_ms):
        line_version(tmp_path / "ranker", number, 1.0, newest_event_ms)
        (tmp_path / "ranker" / str(number) / "saved_model.pb").touch()

    version(2, 5)
    publisher = make(2)
    publisher.go_on_from(2)
    assert publisher.newer_version() is None
    shutil.rmtree(tmp_path / "ranker")
    assert publisher.newer_version() is None
    version(1, 6)
    assert publisher.newer_version() == 1
    publisher.go_on_from(1)
    assert publisher.newer_version() is None
    version(2, 7)
    assert publisher.newer_version() == 2
    publisher.go_on_from(2)
    shutil.rmtree(tmp_path / "ranker" / "2")
    version(2, 8)
    with pytest.raises(PublishError, match="version 2 was published by another process"):
        publisher.push([], {})
    publisher.go_on_from(2)
    assert publisher.newer_version() is None


class _Ended:
    """A stream that ended with window 1; None if it goes on."""

    def __init__(self, end_ms=None):
        self._end_ms = end_ms

    def ended_ms(self):
        return self._end_ms


def test_a_stream_that_has_ended_is_refused_once_nothing_is_left_to_do(tmp_path):
    paths = StreamPaths("build/live", tmp_path, tmp_path, "ranker")
    learner = StreamLearner(LineTrainer(), tmp_path / "stream", version=3)
    ended = _Ended(window(1).end_ms)
    learner.learn(window(0))
    assert _ended(paths, _Ended(), learner, False) == []
    said = rf"the stream in {tmp_path} ended at 2025-.*: nothing more of build/live is read"
    for left in (lambda: None, lambda: learner.learn(window(1))):  # a window; its weights
        left()
        (found,) = _ended(paths, ended, learner, False)
        assert re.fullmatch(said, found)
    learner.mark_published(learner.number, 4)
    with pytest.raises(ValueError, match=rf"{said}; take another folder for --examples"):
        _ended(paths, ended, learner, False)
    assert _ended(paths, ended, learner, True)


def test_after_a_server_was_replaced_rooms_are_forecast_by_the_new_one(monkeypatch):
    made, closed = [], []

    class Side:
        def __init__(self, store, address, name, model_config, deadline_s):
            self.address = address
            made.append(address)

        def refresh(self):
            pass

        def close(self):
            closed.append(self.address)

    monkeypatch.setattr(tfx_pipeline.near_real_time.publisher, "RoomSide", Side)
    store = types.SimpleNamespace(served=types.SimpleNamespace(labels={"stable": 1}))
    server = types.SimpleNamespace(address="host:0", model_name="ranker", model_config=None, store=store)
    publisher = StreamPublisher(server, LIVE_SCHEMA)
    for address in ("host:0", "host:0", "host:1"):
        server.address = address
        publisher.refresh()
    assert (made, closed) == (["host:0", "host:1"], ["host:0"])
