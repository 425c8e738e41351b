"""StreamLearner: order, rollbacks, stops, and what is left by whoever is killed. With a model of one slope."""

import json
import math

import numpy as np
import pytest

import tfx_pipeline.near_real_time.learner
from tests.tfx_pipeline.near_real_time.stream_windows import LineTrainer, window
from tfx_pipeline.near_real_time.config import StreamGateConfig
from tfx_pipeline.near_real_time.learner import StreamLearner

GATE = StreamGateConfig(fewest_windows=3, first_after_windows=4, most_rollbacks=3)


@pytest.fixture
def trainer():
    return LineTrainer()


@pytest.fixture
def learner(trainer, tmp_path):
    return StreamLearner(trainer, tmp_path / "state", GATE)


def _learn(learner, count, begin=0, **arguments):
    return [learner.learn(window(number, **arguments)) for number in range(begin, begin + count)]


def test_each_window_is_scored_before_it_is_learned_from(learner, trainer):
    results = _learn(learner, 3)
    assert trainer.calls == ["score", "train", "score"] * 3
    assert [result.decision for result in results] == ["learned"] * 3
    assert results[0].window["ctr"]["auc"] == 0.5  # nothing was known
    assert results[1].window["ctr"]["auc"] > 0.8
    assert learner.windows["trained"] == 3
    assert learner.examples["trained"] == 600
    assert learner.newest_event_ms == window(2).examples["timestamp_ms"].max()
    json.dumps(results[2].to_json(), allow_nan=False)


def test_a_window_that_comes_again_changes_nothing(learner, trainer):
    _learn(learner, 2)
    slope, history = trainer.slope.copy(), learner.history
    assert learner.learn(window(1)).decision == "repeated"
    assert trainer.slope == slope
    assert learner.history == history
    assert learner.windows["trained"] == 2


def test_windows_without_examples_and_those_that_are_skipped_are_counted(learner, trainer):
    assert learner.learn(window(0, rows=0)).decision == "empty"
    skipped = learner.learn(window(1), behind="far behind")
    assert (skipped.decision, skipped.reasons) == ("skipped", ("far behind",))
    assert trainer.calls == []
    assert (learner.windows["empty"], learner.windows["skipped"], learner.examples["skipped"]) == (1, 1, 200)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"next_loss": math.nan}, "the loss in training is not a finite number"),
        ({"next_loss": 100.0}, "the loss in training is 100.0000, more than 5 times the median 0.5000"),
        ({"next_slope": math.nan}, "the loss on the window's examples afterwards is not a finite number"),
        ({"next_slope": -90.0}, "the loss on the window's examples afterwards is"),
    ],
)
def test_a_window_that_spoils_the_model_is_rolled_back_at_once(learner, trainer, fault, reason):
    _learn(learner, 4)
    slope, newest_ms, number = trainer.slope.copy(), learner.newest_event_ms, learner.number
    for name, value in fault.items():
        setattr(trainer, name, value)
    result = learner.learn(window(4))
    assert result.decision == "rolled_back"
    assert result.reasons[0].startswith(reason)
    assert (trainer.slope, learner.newest_event_ms, learner.number) == (slope, newest_ms, number)
    assert (learner.windows["rolled_back"], learner.windows["trained"]) == (1, 4)
    assert learner.learn(window(5)).decision == "learned"
    json.dumps(result.to_json(), allow_nan=False)


def test_a_model_that_is_worse_in_the_next_window_goes_back_to_the_last_good_one(learner, trainer):
    _learn(learner, 4)
    good, number = trainer.slope.copy(), learner.number
    trainer.next_slope = -0.5  # small enough to keep the loss near the others'
    assert learner.learn(window(4)).decision == "learned"
    assert learner.number > number
    result = learner.learn(window(5))
    assert result.decision == "rolled_back"
    assert "the last good model has" in result.reasons[0]
    assert trainer.slope == good
    # Whoever serves the bad one is to be given the good one again: its number is another one.
    assert learner.number == number
    assert learner.windows["trained"] == 4
    assert learner.windows["rolled_back"] == 2  # the window that spoiled it, and the one that showed it
    assert learner.newest_event_ms == window(3).examples["timestamp_ms"].max()


def test_a_world_that_has_changed_is_learned_and_not_rolled_back(learner, trainer):
    _learn(learner, 8)
    results = _learn(learner, 20, begin=8, flipped=True)
    assert {result.decision for result in results} == {"learned"}
    assert "the world has changed" in " ".join(results[1].notes) or "no other good model" in " ".join(results[0].notes)
    assert results[0].window["ctr"]["auc"] < 0.2
    assert results[-1].window["ctr"]["auc"] > 0.8


def test_after_rollbacks_in_a_row_learning_stops_and_scoring_too(learner, trainer, tmp_path):
    _learn(learner, 4)
    for number in range(4, 7):
        trainer.next_loss = math.inf
        result = learner.learn(window(number))
    assert "training has stopped after 3 rollbacks in a row" in result.reasons[-1]
    calls = len(trainer.calls)
    assert learner.learn(window(7)).decision == "stopped"
    assert len(trainer.calls) == calls
    again = StreamLearner(LineTrainer(), tmp_path / "state", GATE)
    assert again.learn(window(8)).decision == "stopped"  # a restart alone doesn't mend it
    again.try_again()
    assert again.learn(window(9)).decision == "learned"


def test_a_learned_window_between_rollbacks_begins_their_count_anew(learner, trainer):
    _learn(learner, 4)
    for number in range(4, 12):
        if number % 2:
            trainer.next_loss = math.nan
        learner.learn(window(number))
    assert learner.stopped is None
    assert learner.windows["rolled_back"] == 4


def test_a_first_model_is_judged_by_value_alone(learner):
    _learn(learner, 3)
    assert "a first model learns from 4 windows" in learner.judge_first().reasons[0]
    _learn(learner, 3, begin=3)
    assert learner.judge_first().blessed
    poor = StreamGateConfig(first_after_windows=4, smallest_auc=0.999)
    learner._gate = poor
    assert "below the smallest value 0.999" in learner.judge_first().reasons[0]


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_write_it_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch, seed):
    """Faults included: a rollback that was not yet written is decided again, and in the same way."""

    def run(folder):
        restarts = 0
        while True:
            trainer = LineTrainer()
            try:
                learner = StreamLearner(trainer, folder, GATE)
                first = 0 if learner.end_ms is None else (learner.end_ms - window(0).end_ms) // 30_000
                for number in range(first, 14):
                    trainer.next_loss = math.nan if number == 6 else None
                    trainer.next_slope = -0.5 if number == 9 else None
                    learner.learn(window(number))
                return learner, trainer, restarts
            except _Killed:
                restarts += 1
                assert restarts < 100

    whole, expected, _ = run(tmp_path / "whole")
    rng = np.random.default_rng(seed)
    original = tfx_pipeline.near_real_time.array_file.replace_file

    def replace(path, write):
        place = rng.random()
        if place < 0.1:
            raise _Killed
        original(path, write)
        if place > 0.9:
            raise _Killed

    monkeypatch.setattr(tfx_pipeline.near_real_time.array_file, "replace_file", replace)
    killed, trainer, restarts = run(tmp_path / "killed")
    assert restarts > 2
    assert trainer.slope == expected.slope
    assert (killed.history, killed.windows, killed.examples) == (whole.history, whole.windows, whole.examples)
    assert killed.windows["rolled_back"] == 3
    assert killed.trailing() == whole.trailing()


def test_weights_whose_window_was_not_committed_do_not_stand_in_for_others(tmp_path, monkeypatch):
    """Killed between weights and head, then the window is skipped: the next one's weights have the same number."""
    folder = tmp_path / "state"
    trainer = LineTrainer()
    learner = StreamLearner(trainer, folder, GATE)
    learner.learn(window(0))
    trainer.next_slope = 77.0

    def fail(self, path):
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(tfx_pipeline.near_real_time.learner.ArrayFile, "save", fail)
        patch.setattr(LineTrainer, "save", lambda self, path, facts, state: path.write_bytes(b"left behind"))
        with pytest.raises(_Killed):
            learner.learn(window(1))
    assert (folder / "weights-2.state").read_bytes() == b"left behind"
    again_trainer = LineTrainer()
    again = StreamLearner(again_trainer, folder, GATE)
    again.learn(window(1), behind="late")
    again.learn(window(2))
    last = LineTrainer()
    StreamLearner(last, folder, GATE)
    assert last.slope == again_trainer.slope != 77.0


def test_a_damaged_state_is_refused(learner, tmp_path):
    _learn(learner, 2)
    path = tmp_path / "state" / "learner.state"
    data = path.read_bytes()
    for damaged in (b"", data[:-1], data + b"x", b"{}\n", data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            StreamLearner(LineTrainer(), tmp_path / "state", GATE)


def test_weights_of_someone_else_are_gone_on_from(learner, trainer):
    _learn(learner, 3)
    learner.adopt([np.array([9.0], np.float32)], 123, version=7)
    assert (learner.number, learner.published, learner.version, learner.newest_event_ms) == (4, 4, 7, 123)
    assert trainer.slope == 9.0
    _learn(learner, 1, begin=3)
    assert learner.number == 5
