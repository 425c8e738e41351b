"""The whole examples pipeline on the simulator's day: examples a CPU-second, and where the time goes.

From the files of the preset `demo` to TFRecord files by span, on Beam's local runner in this process, one thread. The
shares are of one more run under the profiler, in CPU time; a part's share is without what it hands on to others.
"""

import cProfile
import dataclasses
import os
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.harness import figure, report

OPTIONS: list[click.Option] = [
    click.Option(["--hours"], type=click.IntRange(1, 24), default=24, show_default=True, help="Length of the log."),
    click.Option(["--rounds"], type=click.IntRange(1), default=3, show_default=True, help="Measurements."),
]

_PARTS = {
    "read": [("read_partitions.py", "process")],
    "impressions": [("impressions.py", "_exposures")],
    "cut by shard": [("columnar.py", "split_by_shard")],
    "arrive: concatenate, drop duplicates": [("stage.py", "_accept"), ("run_stage.py", "_by_table")],
    "user stage": [("user_stage.py", "outputs")],
    "author stage": [("author_stage.py", "outputs")],
    "room stage": [("room_stage.py", "outputs")],
    "order": [("examples.py", "_ordered")],
    "encode examples": [("example_writer.py", "encode_examples")],
    "write files": [("example_writer.py", "_write_records")],
    "code batches between workers": [("events.py", "encode"), ("events.py", "decode")],
}
"""Functions that don't call each other, by the part that they are of."""


def run(hours: int = 24, rounds: int = 3) -> dict[str, Any]:
    """Examples and events a CPU-second, and the share of each part."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from beam_transforms.sources.simulator import PRESETS, simulate

    demo = PRESETS["demo"]
    # The end of the day is the busiest, so a shorter log is its end.
    start_ms = demo.start_ms + (24 - hours) * 3_600_000
    config = dataclasses.replace(demo, duration_s=hours * 3600, start_ms=start_ms)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        simulate(config, log)
        _build(log, Path(folder) / "warm")  # imports
        samples, events = [], []
        for number in range(rounds):
            begin = time.process_time()
            summary = _build(log, Path(folder) / str(number))
            seconds = time.process_time() - begin
            samples.append(sum(span["train"] + span["eval"] for span in summary.spans) / seconds)
            events.append(summary.events / seconds)
        shares = _shares(log, Path(folder) / "profiled")
    figures = [
        figure("examples a CPU-second, from files to TFRecord", samples),
        figure("events a CPU-second, from files to TFRecord", events),
    ]
    result = report("examples", [], "apache-beam", "numpy", "pyarrow", "tfx-bsl", "tensorflow", figures=figures)
    result["shares"] = shares
    return result


def _build(log: Path, out: Path) -> Any:
    from beam_transforms.pipeline import build_examples
    from beam_transforms.sources.open_source import open_source
    from beam_transforms.spans import SpanPlan

    return build_examples(open_source("kuailive_m3", log), out, SpanPlan())


def _shares(log: Path, out: Path) -> dict[str, float]:
    profile = cProfile.Profile(time.process_time)
    begin = time.process_time()
    profile.runcall(_build, log, out)
    whole = time.process_time() - begin
    spent = dict.fromkeys(_PARTS, 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for part, functions in _PARTS.items():
            if (Path(file).name, function) in functions and Path(file).parent.name == "beam_transforms":
                spent[part] += cumulative
        if function == "run_stages":
            spent["build the pipeline, before the first stage runs"] = whole - cumulative
    spent["Beam and the rest"] = whole - sum(spent.values())
    return {part: round(seconds / whole, 3) for part, seconds in spent.items()}
