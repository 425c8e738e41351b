"""WeightFiles: what stays in the folder."""

from tests.tfx_pipeline.near_real_time.stream_windows import LineTrainer
from tfx_pipeline.near_real_time.weight_files import WeightFiles, Weights


def test_other_weights_and_what_killed_processes_left_are_removed(tmp_path):
    trainer = LineTrainer()
    files = WeightFiles(tmp_path, trainer)
    for number in (1, 2):
        files.save(Weights(number, None, trainer.state()))
    for name in (".weights-3.state.123", ".learner.state.7", ".lock", "learner.state"):
        (tmp_path / name).touch()
    files.keep((2,))
    assert {path.name for path in tmp_path.iterdir()} == {"weights-2.state", ".lock", "learner.state"}
