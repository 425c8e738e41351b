"""The demo's whole road on two small simulated spans."""

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import filelock
import numpy as np
import psutil
import pytest
from rich.console import Console

from beam_transforms.codebook import Codebook
from beam_transforms.codebook_drift import drift
from beam_transforms.columnar import to_columns
from beam_transforms.content import segment_batch
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.simulator.simulator_config import PRESETS
from beam_transforms.sources.source import DeadLetter
from beam_transforms.spans import SpanPlan
from tfx_pipeline.config import GateConfig

SMALL = dataclasses.replace(PRESETS["tiny"], users=600, authors=30, duration_s=14_400)
_LEFT = "of an earlier demo"
ANY = GateConfig(smallest_value={"auc": {"*": 0.0}}, largest_loss={})


@pytest.mark.e2e
def test_two_spans_are_trained_pushed_and_ranked_with(tmp_path):
    from tfx_pipeline.demo import run_demo

    left = _leftovers(tmp_path / "demo")
    (tmp_path / "demo" / ".foresight-demo").touch()
    with (tmp_path / "account.txt").open("w") as account:
        run_demo(tmp_path / "demo", SMALL, Console(file=account, width=100), ANY)
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    first, second = summary["spans"]
    assert second["span"] == first["span"] + 1
    assert (first["decision"], first["version"], second["decision"], second["version"]) == (
        "blessed",
        1,
        "blessed",
        2,
    )
    assert first["reasons"] and second["reasons"]
    for span in summary["spans"]:
        assert set(span["tasks"]) == {"ctr", "evtr", "lvtr", "ltr", "cmtr", "wtr", "shtr", "gtr", "cvr"}
        assert set(span["tasks"]["ctr"]) == {"auc", "gauc", "uauc", "users_left_out"}
        assert 0 < span["tasks"]["ctr"]["auc"] < 1
        assert set(span["forecast_mse"]) == {"model", "mean", "latest"}
        assert set(span["semantic_id_hits"]) == {"model", "last", "most_frequent", "largest_weight"}
        assert set(span["product_hits"]) == {"model", "model_at_10", "most_frequent", "latest"}
    earlier, of_first_span = _segments_of_the_first_span(tmp_path / "demo" / "data")
    assert summary["codebook"]["trained_on"] == earlier  # none of those that models are evaluated on
    assert summary["drift"]["segments"][0] == of_first_span > earlier > 0
    assert summary["drift"]["population_stability_index"] > 0
    assert summary["wall_seconds"] > 0 and summary["peak_rss_mb"] > 100
    assert sum(stage["seconds"] for stage in summary["stages"]) == pytest.approx(summary["wall_seconds"], rel=0.1)
    before, after = summary["rank"]
    assert (before["version"], after["version"]) == (1, 2)
    assert before["user_id"] == after["user_id"]
    assert {room["live_id"] for room in before["rooms"]} and before["rooms"] != after["rooms"]
    assert set(before["rooms"][0]["scores"]) == set(first["tasks"])
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text()
    assert "blessed" in (tmp_path / "account.txt").read_text()
    assert not [path for path in left if path.exists() and path.read_bytes() == _LEFT.encode()]


def _leftovers(folder: Path) -> list[Path]:
    """What an earlier demo may have left, where it would be in the way."""
    names = (
        "data/old/events.csv",
        "codebook/codebook-old/codebook.json",
        "examples/Span-1/train/old",
        "online_store/x",
    )
    names += ("pipeline/metadata.sqlite", "models/live_ranker/7/saved_model.pb", "examples/schema.json", "summary.json")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_LEFT)
    return [folder / name for name in names]


def _segments_of_the_first_span(folder: Path) -> tuple[int, int]:
    """How many segments of the first span ended before its eval part, and how many there are in all."""
    plan = SpanPlan(SMALL.duration_s * 1000 // 2)
    source = open_source("kuailive_m3", folder)
    batches = itertools.chain.from_iterable(map(source.read_segments, source.segment_partitions()))
    ended_ms = to_columns([batch for batch in batches if not isinstance(batch, DeadLetter)])["timestamp_ms"]
    of_first_span = ended_ms[plan.span(ended_ms) == plan.span(np.array([SMALL.start_ms]))]
    return int((~plan.is_eval(of_first_span)).sum()), len(of_first_span)


def test_the_drift_is_between_the_first_span_and_the_last():
    from tfx_pipeline.demo import codebook_drift

    ended_ms = np.array([5, 9, 10, 19, 20, 25, 31])
    source = mock.Mock(segment_partitions=lambda: ["one"])
    source.read_segments.side_effect = lambda partition: [
        DeadLetter("told", 1, "no reason", ""),
        segment_batch(1, 0, ended_ms, np.array([[0.0], [1.0], [1.0], [1.0], [1.0], [1.0], [0.0]])),
        segment_batch(1, 0, np.array([6]), np.array([[np.nan]])),
    ]
    found = codebook_drift(source, Codebook(np.array([[0.0], [1.0]])), SpanPlan(10), (0, 1, 2))
    assert found == {"segments": [2, 2, 2], **dataclasses.asdict(drift(np.array([1, 1]), np.array([0, 2])))}
    assert codebook_drift(source, Codebook(np.array([[0.0], [1.0]])), SpanPlan(10), (0, 7)) is None


@pytest.mark.slow
def test_a_second_demo_in_the_same_folder_is_refused(tmp_path):
    from tfx_pipeline.demo import run_demo

    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(RuntimeError, match="demo` is running in"):
        run_demo(tmp_path, SMALL, Console(file=None, quiet=True), ANY)


@pytest.mark.slow
def test_a_demo_removes_nothing_from_a_folder_that_no_demo_made(tmp_path):
    from tfx_pipeline.demo import run_demo

    left = _leftovers(tmp_path)
    with pytest.raises(ValueError, match="isn't empty and not known as a folder of `foresight demo`"):
        run_demo(tmp_path, SMALL, Console(file=None, quiet=True), ANY)
    assert all(path.read_text() == _LEFT for path in left)


@pytest.mark.e2e
def test_an_interrupt_leaves_no_process(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "foresight", "demo", "--out", str(tmp_path)]
    demo = subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background would ignore it
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "data").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3)
    children = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(signal.SIGINT)
    _, error = demo.communicate(timeout=120)
    assert demo.returncode != 0
    assert "Traceback" not in error, error
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
