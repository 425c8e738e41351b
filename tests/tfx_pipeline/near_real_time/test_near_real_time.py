"""The loop: what is pushed when, what a slow or failing server changes, lag, and what records say. Without a server."""

import dataclasses
import json
import shutil
import threading
import time
import types

import pytest
import tensorflow as tf

import tfx_pipeline.near_real_time.push_thread
from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.stream_clock import StreamClock
from beam_transforms.spans import SpanPlan
from serving.publish_error import PublishError
from serving.version_manifest import VersionManifest
from tests.tfx_pipeline.near_real_time.stream_windows import BEGIN_MS, LineTrainer, line_version, window
from tfx_pipeline.near_real_time.config import StreamConfig, StreamGateConfig
from tfx_pipeline.near_real_time.learner import StreamLearner
from tfx_pipeline.near_real_time.loop import NearRealTimeLoop
from tfx_pipeline.near_real_time.served_version import ServedVersion

GATE = StreamGateConfig(fewest_windows=3, first_after_windows=3)


class Publisher:
    """Versions in a list; `open` lets pushes through, `error` is raised by the next one, `serve_error` by serving."""

    def __init__(self, has_base=True):
        self.has_base = has_base
        self.versions = []
        self.open = threading.Event()
        self.open.set()
        self.error = None
        self.serve_error = None
        self.served = []
        self.newer = None
        self.refreshed = 0

    def newer_version(self):
        if isinstance(self.newer, Exception):
            raise self.newer
        return self.newer

    def go_on_from(self, version):
        self.newer, self.has_base = None, True

    def publish_first(self, ranker, files, manifest, rows):
        self.has_base = True
        self.versions.append((1, "first", VersionManifest.from_dict(manifest)))
        return 1

    def push(self, weights, manifest):
        assert self.open.wait(20)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        version = 10 + len(self.versions)
        self.versions.append((version, float(weights[0][0]), VersionManifest.from_dict(manifest)))
        return version

    def serve(self, version, number, example, seconds=0.0):
        assert example is None or {len(values) for values in example.values()} == {1}
        if self.serve_error is not None:
            error, self.serve_error = self.serve_error, None
            raise error
        self.served.append(version)
        return ServedVersion(version, number, time.time(), 3, {"push": seconds})

    def refresh(self):
        self.refreshed += 1

    def close(self):
        pass


class Snapshot:
    def __init__(self, ranker):
        self.trainer = ranker.trainer

    def update(self, touched):
        return [self.trainer.slope.copy()]


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(tfx_pipeline.near_real_time.push_thread, "WeightSnapshot", Snapshot)

    def build(publisher=None, now_s=None, newest=None, **settings):
        trainer = LineTrainer()
        trainer.ranker.trainer = trainer
        config = StreamConfig(gate=GATE, **settings)
        learner = StreamLearner(trainer, tmp_path / "stream", GATE, version=9)
        records = []
        server = types.SimpleNamespace(model_name="ranker", model_dir=tmp_path / "models", has_ended=False)
        clock = StreamClock(clock=(lambda: now_s[0]) if now_s else time.time)
        publisher = publisher or Publisher()
        loop = NearRealTimeLoop(
            learner, publisher, server, SpanPlan(), config, tmp_path / "stream", clock, records.append, newest
        )
        return loop, loop._pusher._publisher, records

    return build


def _settle(loop):
    if loop._pusher._push is not None:
        loop._pusher._push.exception(20)


def _handle(loop, numbers, **arguments):
    for number in numbers:
        loop.handle(window(number, **arguments))
        _settle(loop)


NEVER_LATE = {"max_lag_s": 0.0}


def test_each_window_becomes_a_version_with_its_manifest(make, tmp_path):
    loop, publisher, records = make(**NEVER_LATE)
    loop.run(map(window, range(4)))
    assert [version for version, *_ in publisher.versions] == list(range(10, 10 + len(publisher.versions)))
    last = publisher.versions[-1][2]
    newest_ms = last.newest_event_ms
    assert any(newest_ms == window(number).examples["timestamp_ms"].max() for number in range(4))
    assert last.span == newest_ms // 3_600_000
    assert last.parent_version == (publisher.versions[-2][0] if len(publisher.versions) > 1 else 9)
    assert last.decision == "blessed"
    assert last.reasons
    assert last.tasks["ctr"]["auc"] >= 0.5
    summary = json.loads((tmp_path / "stream" / "stream.json").read_text())
    assert summary["state"] == "ended"
    assert summary["version"] == publisher.versions[-1][0]
    assert summary["counts"]["windows_trained"] == 4
    assert [record["end_ms"] for record in records if record["event"] == "window"] == [
        BEGIN_MS + number * WINDOW_MS for number in range(4)
    ]
    json.dumps(records, allow_nan=False)


def test_a_slow_server_stops_no_learning_and_the_next_push_has_all_of_it(make):
    loop, publisher, records = make(**NEVER_LATE)
    publisher.open.clear()
    begin = time.time()
    for number in range(5):
        loop.handle(window(number, closed_s=begin - 1))
    assert [record["decision"] for record in records] == ["learned"] * 5
    assert [record["push"] for record in records] == ["begun", *["under way"] * 4]
    publisher.open.set()
    _settle(loop)
    loop.handle(window(5, closed_s=begin - 1))
    _settle(loop)
    loop.handle(window(6, rows=0))
    assert [slope for _, slope, _ in publisher.versions] == [1.0, 6.0]
    # The first version serves one window, the second all that came while the first was under way.
    served = [entry for record in records for entry in record["served"]]
    assert [len(entry["windows"]) for entry in served] == [1, 5]
    for entry in served[1]["windows"]:
        assert 1 <= entry["close_to_answer_s"] < 30
    figures = records[-1]["freshness"]["close_to_answer_s"]
    assert figures["windows"] == 6
    assert 1 <= figures["p50"] <= figures["p95"] <= figures["max"] < 30


def test_freshness_counts_from_the_newest_event_and_from_the_labels(make):
    now_s = [(BEGIN_MS + WINDOW_MS) / 1000 + 4]
    loop, _, records = make(now_s=now_s)
    example = window(1)
    _handle(loop, [1])
    assert records[0]["lag_s"] == pytest.approx(4)
    answered_s = loop._pusher._push.result().answered_s  # by the wall clock; the events are of another day
    loop.handle(window(2, rows=0))
    (served,) = records[1]["served"]
    (entry,) = served["windows"]
    assert entry["event_to_served_s"] == pytest.approx(
        answered_s - example.examples["timestamp_ms"].max() / 1000, abs=1
    )
    assert entry["label_to_served_s"] == pytest.approx(answered_s - example.emitted_ms.min() / 1000, abs=1)
    assert entry["close_to_answer_s"] is None  # of a window that was given once more


def test_a_push_that_fails_is_said_and_tried_again(make):
    loop, publisher, records = make(**NEVER_LATE)
    publisher.error = PublishError("the disk is full")
    _handle(loop, range(3))
    assert publisher.versions[0][1] == 2.0  # what the first push would have had, and the second window
    assert "the disk is full" in records[1]["errors"][0]
    assert records[2]["counts"]["failed_pushes"] == 1
    assert records[2]["errors"] == []


def test_a_bad_version_that_was_pushed_is_followed_by_the_last_good_weights(make):
    loop, publisher, records = make(**NEVER_LATE)
    _handle(loop, range(4))
    loop._learner.trainer.next_slope = -0.5
    _handle(loop, range(4, 6))
    slopes = [slope for _, slope, _ in publisher.versions]
    assert slopes == [1.0, 2.0, 3.0, 4.0, -0.5, 4.0]
    good, bad, mended = publisher.versions[3:]
    assert mended[0] > bad[0]
    assert mended[2].parent_version == good[0]
    assert mended[2].newest_event_ms == good[2].newest_event_ms
    assert records[-1]["decision"] == "rolled_back"
    assert "the last good model has" in mended[2].reasons[0]
    _handle(loop, range(6, 8))
    assert publisher.versions[-1][1] == 6.0


def test_a_window_that_is_rolled_back_before_it_was_pushed_pushes_nothing(make):
    loop, publisher, records = make(**NEVER_LATE)
    _handle(loop, range(4))
    loop._learner.trainer.next_loss = float("nan")
    _handle(loop, [4])
    assert len(publisher.versions) == 4
    assert records[-1]["push"] == "nothing new"


def test_far_behind_windows_are_skipped_until_it_has_caught_up(make):
    now_s = [0.0]
    loop, _, records = make(now_s=now_s, max_lag_s=100.0)
    for number, lag_s in enumerate((5, 99, 101, 60, 26, 24, 90)):
        now_s[0] = (BEGIN_MS + number * WINDOW_MS) / 1000 + lag_s
        _handle(loop, [number])
    skipped = [record["decision"] == "skipped" for record in records]
    assert skipped == [False, False, True, True, True, False, False]
    assert records[-1]["counts"]["windows_skipped"] == 3
    assert records[-1]["counts"]["examples_skipped"] == 600
    assert [record["behind"] for record in records] == skipped
    assert "101 s behind, more than 100 s" in records[2]["reasons"][0]


def test_a_first_model_is_published_whole_once_it_is_good_enough(make):
    loop, publisher, records = make(Publisher(has_base=False), **NEVER_LATE)
    _handle(loop, range(5))
    assert [record["push"][:14] for record in records[:2]] == ["no first model"] * 2
    assert publisher.versions[0][:2] == (1, "first")
    assert publisher.versions[0][2].parent_version == 9
    assert len(publisher.versions) == 3


def test_without_a_push_the_rooms_are_refreshed(make):
    loop, publisher, _ = make(**NEVER_LATE)
    _handle(loop, [0])
    for number in (1, 2):
        loop.handle(window(number, rows=0))
        loop._pusher._refresh.result(20)
    assert publisher.refreshed == 2


def test_a_version_that_the_pipeline_published_is_gone_on_from(make, tmp_path):
    loop, publisher, records = make(**NEVER_LATE)
    _handle(loop, range(2))
    publisher.error = PublishError("version 40 was published by another process meanwhile")
    _handle(loop, [2])
    line_version(tmp_path / "models" / "ranker", 40, 50.0)
    publisher.newer = 40
    _handle(loop, [3, 4])
    assert records[3]["adopted"] == {"version": 40, "windows_dropped": 1}
    assert [record["adopted"] for record in (records[2], records[4])] == [None, None]
    assert publisher.versions[-2][1] == 51.0
    assert publisher.versions[-2][2].parent_version == 40
    # The dropped window is in no answer, and no longer one of those that were learned.
    served = [entry["end_ms"] for record in records for result in record["served"] for entry in result["windows"]]
    assert BEGIN_MS + 2 * WINDOW_MS not in served
    counts = records[4]["counts"]
    assert (counts["adopted"], counts["windows_dropped"], counts["windows_trained"]) == (1, 1, 4)


def test_where_numbers_begin_anew_under_a_running_loop_the_new_model_is_gone_on_from(make, tmp_path):
    models = tmp_path / "models" / "ranker"
    line_version(models, 10, 0.0)
    loop, publisher, records = make(**NEVER_LATE)
    _handle(loop, range(2))
    assert publisher.versions[0][0] == 10
    loop.handle(window(2, rows=0))
    assert loop._learner.is_of(models / "11")
    publisher.newer = 10  # another one than its own
    shutil.rmtree(models / "10")
    line_version(models, 10, 50.0, newest_event_ms=124)
    _handle(loop, [3])
    assert records[3]["adopted"] == {"version": 10, "windows_dropped": 0}
    assert publisher.versions[-1][1] == 51.0
    assert loop._learner.is_of(models / "10")


def test_rows_that_could_not_be_used_are_said_when_there_are_more_of_them(make, tmp_path):
    loop, _, records = make(**NEVER_LATE)
    found = [
        (None, {"dead_letters": 2, "late_events": 1}),  # the last window of before a restart
        (5.0, {"dead_letters": 2, "late_events": 1}),
        (6.0, {"dead_letters": 3, "late_events": 1, "late_impressions": 1, "late_products": 2, "events": 50}),
        (7.0, {"dead_letters": 3, "late_events": 1, "late_impressions": 1, "late_products": 2, "events": 90}),
    ]
    for number, (closed_s, counts) in enumerate(found):
        loop.handle(dataclasses.replace(window(number, closed_s=closed_s), counts=counts))
        _settle(loop)
    assert [record["unused"] for record in records] == [None, None, {"dead_letters": 3, "late": 3}, None]
    assert json.loads((tmp_path / "stream" / "stream.json").read_text())["stream"] == found[-1][1]


def test_before_a_first_model_the_pipelines_is_gone_on_from(make, tmp_path):
    loop, publisher, _ = make(Publisher(has_base=False), **NEVER_LATE)
    _handle(loop, range(2))
    line_version(tmp_path / "models" / "ranker", 40, 50.0)
    publisher.newer = 40
    _handle(loop, [2])
    assert [(version, slope) for version, slope, _ in publisher.versions] == [(10, 51.0)]


def test_a_version_of_another_model_is_said_each_window_and_nothing_is_pushed(make, tmp_path):
    loop, publisher, records = make(**NEVER_LATE)
    _handle(loop, range(2))
    line_version(tmp_path / "models" / "ranker", 40, 50.0, tasks=("ltr", "ctr"))
    publisher.newer = 40
    _handle(loop, [2, 3])
    for record in records[2:]:
        assert "of another model" in record["errors"][0]
        assert "begin anew" in record["errors"][0]
        assert record["push"].startswith("held back")
    assert publisher.newer == 40  # nothing has moved
    assert [slope for _, slope, _ in publisher.versions] == [1.0, 2.0]
    assert loop._learner.trainer.slope[0] == 4.0
    assert records[3]["counts"]["failed_pushes"] == 0


def test_a_version_whose_graph_can_not_be_taken_yet_is_adopted_once(make, tmp_path):
    loop, publisher, records = make(**NEVER_LATE)
    line_version(tmp_path / "models" / "ranker", 40, 50.0)
    publisher.newer = 40
    go_on_from, publisher.go_on_from = publisher.go_on_from, lambda version: _raise(PublishError("not there"))
    _handle(loop, range(2))
    assert publisher.versions == []
    publisher.go_on_from = go_on_from
    _handle(loop, [2])
    assert [slope for _, slope, _ in publisher.versions] == [53.0]
    assert [record["adopted"] is not None for record in records] == [True, False, False]


@pytest.mark.parametrize("error", [OSError(5, "stale file handle"), tf.errors.UnavailableError(None, None, "no disk")])
def test_a_folder_of_models_that_can_not_be_read_ends_nothing(make, error):
    loop, publisher, records = make(**NEVER_LATE)
    publisher.newer = error
    _handle(loop, [0])
    assert "newer version can't be told" in records[0]["errors"][0]
    publisher.newer, publisher.error = None, error
    _handle(loop, [1, 2])
    assert "push failed" in records[2]["errors"][0]


def _raise(error):
    raise error


def test_the_version_that_is_there_is_served_at_once(make):
    loop, publisher, records = make(newest=9, **NEVER_LATE)
    loop.run([])
    assert publisher.served == [9]
    assert publisher.versions == []
    assert records[-1]["served"][0]["version"] == 9


def test_a_version_that_did_not_answer_is_served_again_not_pushed_again(make):
    loop, publisher, records = make(**NEVER_LATE)
    publisher.serve_error = RuntimeError("no server")
    _handle(loop, [0])
    loop.handle(window(1, rows=0))
    _settle(loop)
    loop.handle(window(2, rows=0))
    assert [version for version, *_ in publisher.versions] == publisher.served == [10]
    assert "no server" in records[1]["errors"][0]
    assert [record["push"] for record in records] == ["begun", "served again", "nothing new"]
    assert [len(entry["windows"]) for entry in records[2]["served"]] == [1]
    loop._pusher._server.has_ended = True
    loop.handle(window(3, rows=0))
    _settle(loop)
    assert publisher.served == [10, 10]


def test_at_the_end_what_was_learned_during_the_last_push_is_pushed(make):
    loop, publisher, records = make(**NEVER_LATE)

    def windows():
        publisher.open.clear()
        yield from map(window, range(3))
        threading.Timer(0.3, publisher.open.set).start()

    loop.run(windows())
    assert [slope for _, slope, _ in publisher.versions] == [1.0, 3.0]
    assert records[-1]["event"] == "end"
    assert [len(entry["windows"]) for entry in records[-1]["served"]] == [1, 2]
    assert loop._learner.published == loop._learner.number


def test_a_source_that_is_late_itself_is_not_lag(make):
    now_s = [0.0]
    loop, _, records = make(now_s=now_s, max_lag_s=100.0)
    for number, caught_up in enumerate((True, True, False, False, True)):
        now_s[0] = (BEGIN_MS + number * WINDOW_MS) / 1000 + 360
        loop.handle(dataclasses.replace(window(number), caught_up=caught_up))
        _settle(loop)
    assert [record["behind"] for record in records] == [False, False, True, True, False]
    assert [record["decision"] for record in records] == ["learned"] * 2 + ["skipped"] * 2 + ["learned"]


def test_a_loop_that_stopped_learning_goes_on_serving(make):
    loop, publisher, records = make(**NEVER_LATE)
    _handle(loop, range(3))
    for number in range(3, 3 + GATE.most_rollbacks):
        loop._learner.trainer.next_loss = float("nan")
        _handle(loop, [number])
    _handle(loop, [20, 21])
    assert records[-1]["decision"] == "stopped"
    assert publisher.refreshed > 0
    assert len(publisher.versions) == 3


def test_after_an_error_the_window_is_dealt_with_once_more_and_counted_once(make, tmp_path):
    loop, _, _ = make(**NEVER_LATE)
    trainer = loop._learner.trainer
    original, trainer.train = trainer.train, None
    with pytest.raises(TypeError):
        loop.run([window(0)])
    trainer.train = original
    again = StreamLearner(LineTrainer(), tmp_path / "stream", GATE)
    assert again.end_ms is None
    assert again.learn(window(0)).trailing["ctr"]["rows"] == 200
