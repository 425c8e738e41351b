"""`foresight stream`: what it refuses, what it tells people, and how signals end it."""

import dataclasses
import math
import os
import signal
import threading
import time

import filelock
import pytest
import yaml
from click.testing import CliRunner

from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA
from tfx_pipeline.cli import COMMANDS
from tfx_pipeline.near_real_time.command import describe, stream
from tfx_pipeline.near_real_time.config import StreamConfig, load_stream_config
from tfx_pipeline.near_real_time.label_policy import label_policy
from tfx_pipeline.near_real_time.run import require_schema
from tfx_pipeline.near_real_time.stop_request import StopRequest
from tfx_pipeline.ranker_settings import ranker_config


def _invoke(tmp_path, *arguments):
    (tmp_path / "live").mkdir(exist_ok=True)
    defaults = ["--source", str(tmp_path / "live"), "--examples", str(tmp_path / "examples")]
    return CliRunner().invoke(stream, [*defaults, "--model-dir", str(tmp_path / "models"), *arguments])


def test_the_command_is_registered():
    assert stream in COMMANDS


def test_a_second_loop_on_the_same_folder_is_refused(tmp_path):
    (tmp_path / "examples" / "stream").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "examples" / "stream" / ".lock"):
        result = _invoke(tmp_path)
    assert result.exit_code == 1
    assert "another loop runs in" in result.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": {"largest_fal": 1}}, "gate: unknown keys"),
        ({"training": {"batch_size": 0}}, "batch_size must be a positive number"),
        ({"policy": "soon"}, "policy must be one of fast_window"),
        ({"max_lag_s": -1}, "must not be negative"),
        ({"gate": {"standard_errors": -1}}, "must not be negative"),
        *(
            ({"gate": {name: value}}, f"{name} must be a number and must not be negative")
            for name in ("standard_errors", "smallest_advantage")
            for value in (math.nan, math.inf)
        ),
        *(
            ({name: value}, f"{name} must be a number and must not be negative")
            for name in ("max_lag_s", "lateness_s")
            for value in (math.nan, math.inf)
        ),
        ({"eval_fraction": math.nan}, "eval_fraction must be between 0 and 1"),
        ({"keep_versions": 1}, "keep_versions must be at least 2, got 1"),
        ({"gate": {"trailing_windows": 4}}, "trailing_windows must be at least 2 and fewest_windows (5), got 4"),
        ({"gate": {"trailing_windows": 1, "fewest_windows": 1}}, "trailing_windows must be at least 2"),
        ({"policy": "fast_slow"}, "set max_lag_s to 0, got 300"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(tmp_path, settings, message):
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(settings))
    result = _invoke(tmp_path, "--config", str(tmp_path / "stream.yaml"))
    assert result.exit_code == 1
    assert message in result.output


def test_a_configuration_keeps_what_it_leaves_out(tmp_path):
    (tmp_path / "stream.yaml").write_text("lateness_s: 2\npolicy: sliver\npolicy_options: {horizon_s: 600}\n")
    config = load_stream_config(tmp_path / "stream.yaml")
    assert config == StreamConfig(lateness_s=2.0, policy="sliver", policy_options={"horizon_s": 600})
    assert label_policy(config, LIVE_SCHEMA.tasks).horizon_ms == 600_000
    for policy in ("first_only", "sliver", "fast_window"):
        without = dataclasses.replace(config, policy=policy, policy_options={})
        assert label_policy(without, LIVE_SCHEMA.tasks).horizon_ms == 300_000
    with pytest.raises(ValueError, match="policy_options"):
        label_policy(dataclasses.replace(config, policy_options={"horizon": 1}), LIVE_SCHEMA.tasks)


def test_what_is_known_soon_is_learned_soon_whatever_it_is():
    policy = label_policy(StreamConfig(), LIVE_SCHEMA.tasks)
    assert (policy.window_s, policy.task_window_s) == (300, {"ctr": 30, "evtr": 30})
    chat = label_policy(StreamConfig(), CHAT_SCHEMA.tasks)
    assert (chat.task_window_s, chat.horizon_ms) == ({"cmtr": 60}, 60_000)  # nothing is kept for longer
    assert label_policy(StreamConfig(policy_options={"window_s": 20}), LIVE_SCHEMA.tasks[:2]).horizon_ms == 20_000
    other = StreamConfig(policy_options={"window_s": 120, "task_window_s": {"ctr": 60}})
    policy = label_policy(other, LIVE_SCHEMA.tasks)
    assert (policy.window_s, policy.task_window_s) == (120, {"ctr": 60})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_window_s": {"crt": 30}}, "policy_options: task_window_s names crt, the tasks are ctr, "),
        ({"task_window_s": {"evtr": 3}}, "policy_options: task 'evtr' needs 10 s, the fast window has 3 s"),
        ({"window_s": math.inf}, "policy_options: window_s must be a number of seconds"),
        ({"window_s": "soon"}, "policy_options: "),
    ],
)
def test_options_that_no_window_could_be_labelled_with_are_refused_at_the_start(options, message):
    with pytest.raises(ValueError, match=message):
        label_policy(StreamConfig(policy_options=options), LIVE_SCHEMA.tasks)


def test_a_base_of_another_schema_is_refused():
    config = ranker_config(LIVE_SCHEMA, {"variant": "base"})
    require_schema(config, LIVE_SCHEMA, "version 3")
    other = dataclasses.replace(LIVE_SCHEMA, sequence_length=20, tasks=LIVE_SCHEMA.tasks[:2])
    with pytest.raises(ValueError, match=r"version 3 doesn't fit .* its input 'statistic_sequence'.*its tasks are"):
        require_schema(config, other, "version 3")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_waiting_ends_it_at_once_and_one_at_work_after_the_item(number):
    def items():
        yield 1
        time.sleep(20)
        yield 2

    def stop():
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()

    before = signal.getsignal(number)
    begin, found = time.monotonic(), []
    with StopRequest() as request:
        for item in request.until_stopped(items()):
            found.append(item)
            stop()
    assert (found, request.requested) == ([1], True)
    assert time.monotonic() - begin < 10
    found = []
    with StopRequest() as request:
        for item in request.until_stopped(range(5)):
            stop()
            time.sleep(0.5)
            found.append(item)
    assert found == [0]
    assert signal.getsignal(number) == before


def test_what_a_loop_starts_from_is_told_with_what_it_adopts():
    record = {"event": "start", "start": "version 2", "adopted": {"version": 2, "windows_dropped": 0}}
    first, second = describe(record).splitlines()
    assert first == "starting from version 2"
    assert "version 2 was published by another process and is gone on from" in second


def test_a_record_is_told_to_people():
    figures = {"auc": 0.71234, "gauc": None, "uauc": None}
    record = {
        "event": "window",
        "end_ms": 1_750_000_020_000,
        "decision": "rolled_back",
        "reasons": ["ctr AUC fell"],
        "examples": 12,
        "losses": {"train": 0.5, "after": None},
        "metrics": {"window": None, "trailing": {"ctr": figures}},
        "lag_s": 4.25,
        "behind": False,
        "counts": {"windows_skipped": 0, "windows_rolled_back": 2},
        "served": [
            {
                "version": 7,
                "seconds": {"push": 0.1, "load": 1.5},
                "windows": [{"close_to_answer_s": 2.04, "event_to_served_s": None}],
            }
        ],
        "unused": {"dead_letters": 1200, "late": 3},
        "adopted": {"version": 6, "windows_dropped": 2},
        "errors": ["push failed"],
    }
    assert describe(record).splitlines() == [
        "2025-06-15T15:07:00+00:00 rolled_back    12 examples, loss 0.5000, ctr AUC 0.7123 GAUC -, 4.2 s behind, "
        "0 skipped, 2 rolled back so far",
        "  1,200 dead letters, 3 late so far: they are kept in dead_letters and late, beside the examples",
        "  ctr AUC fell",
        "  version 6 was published by another process and is gone on from; 2 learned windows are dropped",
        "  version 7 answers (push 0.10, load 1.50 s)",
        "    2.0 s after the window closed, - after its newest event",
        "  push failed",
    ]
