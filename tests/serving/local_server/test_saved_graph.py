"""Versions with the same graph share it, and sessions go from one version to the next."""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from serving.local_server.graph_pool import GraphPool
from serving.local_server.graph_session import GraphSession
from serving.local_server.model_config import ModelConfig
from serving.local_server.servable import Servable
from serving.local_server.version_manager import VersionManager


@pytest.fixture
def put(tmp_path, export_model):
    """(version, bias) -> folder of a version whose graph is the same for all biases."""

    def put(version, bias):
        beside = tmp_path / ".beside"
        shutil.copytree(export_model(bias), beside)
        shutil.copy(export_model(0.0) / "saved_model.pb", beside / "saved_model.pb")
        return beside.rename(tmp_path / str(version))

    return put


@pytest.fixture
def opened(monkeypatch):
    """Sessions that were opened and not closed."""
    sessions = set()
    init, close = GraphSession.__init__, GraphSession.close

    def noted_init(self, *arguments):
        init(self, *arguments)
        sessions.add(self)

    def noted_close(self):
        sessions.discard(self)
        close(self)

    monkeypatch.setattr(GraphSession, "__init__", noted_init)
    monkeypatch.setattr(GraphSession, "close", noted_close)
    return sessions


def score(servable):
    return float(servable.predict("plain", {"context": np.zeros((1, 3), np.float32)})["score"][0])


def sigmoid(bias):
    return 1 / (1 + np.exp(-bias))


def test_a_version_answers_with_its_own_variables_while_others_load(put, opened):
    graphs = GraphPool()
    first, second = Servable(put(1, 0.0), graphs), Servable(put(2, 1.0), graphs)
    assert len(graphs) == 1 and len(opened) == 2
    for _ in range(2):
        assert score(first) == pytest.approx(sigmoid(0), abs=1e-6)
        assert score(second) == pytest.approx(sigmoid(1), abs=1e-6)
    first.close()
    third = Servable(put(3, -1.0), graphs)
    assert len(opened) == 2  # the first version's session has gone on
    assert score(third) == pytest.approx(sigmoid(-1), abs=1e-6)
    assert score(second) == pytest.approx(sigmoid(1), abs=1e-6)
    second.close()
    third.close()
    assert len(graphs) == len(opened) == 0


def test_another_graph_is_not_shared(put, tmp_path):
    graphs = GraphPool()
    first = Servable(put(1, 0.0), graphs)

    class Doubler(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, name="context")])
        def __call__(self, context):
            return {"score": tf.reduce_sum(context, axis=1) * 2}

    doubler = Doubler()
    tf.saved_model.save(doubler, str(tmp_path / "2"), signatures={"plain": doubler.__call__})
    second = Servable(tmp_path / "2", graphs)
    assert len(graphs) == 2
    assert second.predict("plain", {"context": np.ones((1, 3), np.float32)})["score"].tolist() == [6.0]
    assert score(first) == 0.5
    first.close()
    assert len(graphs) == 1
    second.close()


def test_a_session_is_prepared_once_for_the_next_version(put, opened):
    graphs = GraphPool()
    first = Servable(put(1, 0.0), graphs)
    assert first.prepare_next()
    assert not first.prepare_next()
    assert len(opened) == 2
    second = Servable(put(2, 1.0), graphs)
    assert len(opened) == 2
    assert (score(first), score(second)) == (0.5, pytest.approx(sigmoid(1), abs=1e-6))
    first.close()
    second.close()


@pytest.mark.parametrize("broken", ["variables/variables.index", "variables/variables.data-00000-of-00001"])
def test_variables_that_cannot_be_read_fail_the_load_and_nothing_else(put, opened, broken):
    graphs = GraphPool()
    first, second = Servable(put(1, 0.0), graphs), Servable(put(2, 1.0), graphs)
    second.close()
    folder = put(3, -1.0)
    (folder / broken).unlink()
    with pytest.raises((OSError, tf.errors.OpError)):
        Servable(folder, graphs)
    assert len(opened) == 1  # what was half overwritten is used no more
    assert score(first) == 0.5
    fourth = Servable(put(4, 1.0), graphs)
    assert score(fourth) == pytest.approx(sigmoid(1), abs=1e-6)
    first.close()
    fourth.close()


def test_tables_and_other_state_are_never_reused(tmp_path, opened):
    """A table that is filled keeps its entries: the session of the version before would answer with them."""

    class Lookup(tf.Module):
        def __init__(self, path):
            self.file = tf.saved_model.Asset(str(path))
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(
                    self.file,
                    tf.string,
                    tf.lookup.TextFileIndex.WHOLE_LINE,
                    tf.int64,
                    tf.lookup.TextFileIndex.LINE_NUMBER,
                ),
                -1,
            )

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="word")])
        def __call__(self, word):
            return {"number": self.table.lookup(word)}

    graphs = GraphPool()
    answers = []
    for version, words in ((1, "a\nb\n"), (2, "b\na\n"), (3, "x\ny\na\n")):
        (tmp_path / "words.txt").write_text(words)
        lookup = Lookup(tmp_path / "words.txt")
        folder = tmp_path / str(version)
        tf.saved_model.save(lookup, str(folder), signatures={"serving_default": lookup.__call__})
        if version > 1:
            shutil.copy(tmp_path / "1" / "saved_model.pb", folder / "saved_model.pb")
        servable = Servable(folder, graphs)
        assert not servable.prepare_next()
        answers.append(servable.predict("", {"word": np.array([b"a"], object)})["number"].tolist())
        servable.close()
    assert answers == [[0], [1], [2]]


def swap(put, opened, first, last):
    """Loads one version after another under the policy of two; returns the most sessions alive at a time."""
    graphs = GraphPool()
    manager = VersionManager(lambda path: Servable(path, graphs), poll_s=3600, prepare=Servable.prepare_next)
    base = put(first, 0.0).parent
    config = ModelConfig("m", base, latest=2)
    manager.start([config])
    most = 0
    try:
        for version in range(first + 1, last + 1):
            put(version, 1.0 if version % 2 else -1.0)
            manager.reload([config])
            assert version in manager.serving.versions("m")
            most = max(most, len(opened))
            assert len(graphs) == 1
            shutil.rmtree(base / str(version - 2), ignore_errors=True)
    finally:
        manager.stop()
    assert len(graphs) == len(opened) == 0
    return most


def test_sessions_do_not_pile_up_over_swaps(put, opened, monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # takes long where all of TensorFlow is loaded
    assert swap(put, opened, 1, 50) == 3  # two versions, and one that is kept or loading


@pytest.mark.slow
def test_memory_is_flat_over_500_swaps(put, opened):
    gc.collect()
    gc.freeze()  # as `foresight serve` does
    try:
        swap(put, opened, 1, 100)
        before = resident_bytes()
        swap(put, opened, 1000, 1500)
        assert resident_bytes() - before < 20 * 2**20
    finally:
        gc.unfreeze()


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
