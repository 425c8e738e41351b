"""kill -9 at any point: nothing is learned twice, nothing is left out, and the weights are the same bit by bit."""

import json

import numpy as np
import pytest

from tests.beam_transforms.live_logs import arrivals, live_log, put
from tests.tfx_pipeline.near_real_time.stream_kills import LearnerProcess
from tfx_pipeline.near_real_time.array_file import ArrayFile

_KILLS = 12


def _left(folder):
    head = ArrayFile.load(folder / "stream" / "learner.state")
    weights = ArrayFile.load(folder / "stream" / f"weights-{head.facts['current']}.state")
    examples = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.tfrecord")}
    return head, weights, examples


@pytest.mark.slow
def test_killed_at_random_points_it_learns_each_window_once_to_the_same_bits(tmp_path):
    live = put(tmp_path / "live", arrivals(live_log(1, minutes=40, events=600), 2, 60_000))
    process = LearnerProcess(live)
    assert process.run(tmp_path / "once")
    end = json.loads((tmp_path / "once" / "end.json").read_text())
    assert end["learned"]["trained"] >= 30
    rng = np.random.default_rng(7)
    kills, runs = 0, 0
    # Half of the kills come at a file operation, half at a time; each run gets through a part of the stream.
    while kills < _KILLS:
        runs += 1
        if runs % 2:
            ended = process.run(tmp_path / "often", steps=int(rng.integers(1, end["steps"] // 14)))
        else:
            ended = process.run(tmp_path / "often", seconds=float(rng.random() * end["seconds"] / 10))
        kills += not ended
        if ended:
            break
    assert kills >= 10
    while not process.run(tmp_path / "often"):
        pass
    expected, found = _left(tmp_path / "once"), _left(tmp_path / "often")
    for name in ("history", "end_ms", "counts", "model", "current", "good"):
        assert found[0].facts[name] == expected[0].facts[name], name
    for name, array in expected[1].arrays.items():
        np.testing.assert_array_equal(found[1].arrays[name], array, err_msg=name)
    for name, array in expected[0].arrays.items():
        np.testing.assert_array_equal(found[0].arrays[name], array, err_msg=name)
    assert found[2] == expected[2]
    # No window's weights but the last ones are left behind.
    assert len(list((tmp_path / "often" / "stream").glob("weights-*"))) <= 2
