"""The near-real-time loop: from a window's close to the first answer of a version that has learned from it.

Simulates the demo's day, replays an evening of it in real time times `--speed`, and runs `foresight stream` on it as it
is: with a model of the demo's settings that starts from random weights, and a model server of its own, all on this
machine. The first version, exported whole, and what waits for it are left out.
"""

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from beam_transforms.pipeline import content_schema
from beam_transforms.schema import schema_to_json
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.simulator import PRESETS, simulate
from beam_transforms.train_codebook import train_codebook
from benchmarks.harness import goal, report

OPTIONS: list[click.Option] = [
    click.Option(["--speed"], type=click.FloatRange(0.1), default=10.0, show_default=True, help="Of the replay."),
    click.Option(["--minutes"], type=click.FloatRange(1), default=4.0, show_default=True, help="Of the wall clock."),
    click.Option(["--from-hour"], type=click.FloatRange(0, 24), default=20.0, show_default=True, help="Of the day."),
    click.Option(["--data"], type=click.Path(path_type=Path), help="Keep the simulated day here, and use it again."),
]

_CODES = 256
_LENGTHS = (12, 6)
_CLOSE_S, _SERVED_S = 5.0, 40.0
_CONFIG = {
    "model": {"variant": "all", "forecaster_layers": 1},
    "training": {"learning_rate": 2e-3},
    # Any first model will do: how fresh it is is measured, not how good.
    "gate": {"first_after_windows": 2, "smallest_auc": 0.01, "fewest_positives": 1, "largest_fall": 1.0},
}


def run(speed: float = 10.0, minutes: float = 4.0, from_hour: float = 20.0, data: Path | None = None) -> dict[str, Any]:
    """Seconds from close to answer and from event to answer, and how many windows were skipped."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        day = data or folder / "day"
        _prepare(day)
        records = _drive(folder, day, speed, minutes, from_hour)
    return _figures(records, speed, minutes)


def _prepare(day: Path) -> None:
    """The demo's day with its codebook and schema."""
    if not (day / "log").exists():
        simulate(dataclasses.replace(PRESETS["demo"], seed=0), day / "log")
    if not (day / "schema.json").exists():
        source = open_source("kuailive_m3", day / "log")
        preset = PRESETS["demo"]
        codebook = train_codebook(source, preset.start_ms + preset.duration_s * 500, _CODES, day / "codebook")
        schema = content_schema(source, codebook, _LENGTHS)
        (day / "schema.json").write_text(json.dumps(schema_to_json(schema)))


def _drive(folder: Path, day: Path, speed: float, minutes: float, from_hour: float) -> list[dict[str, Any]]:
    (folder / "config.yaml").write_text(yaml.safe_dump(_CONFIG))
    live = folder / "live"
    live.mkdir()
    codebook = next(path for path in sorted((day / "codebook").rglob("*")) if path.is_file()).parent
    stream = ["stream", "--source", live, "--examples", folder / "examples", "--model-dir", folder / "models"]
    stream += ["--store", folder / "store", "--schema", day / "schema.json", "--codebook", codebook]
    stream += ["--config", folder / "config.yaml", "--json"]
    replay = ["replay", "--input", day / "log", "--output", live, "--speed", speed, "--shift"]
    replay += ["--from", from_hour, "--until", min(24.0, from_hour + minutes * speed / 60)]
    records: list[dict[str, Any]] = []
    with _command(stream) as loop, _command(replay) as player:
        reader = threading.Thread(target=_read, args=(loop, records), daemon=True)
        reader.start()
        player.wait(minutes * 60 + 300)
        # The stream ends with the source; what is on its way is waited for.
        loop.wait(300)
        reader.join(60)
        if loop.returncode or player.returncode:
            raise RuntimeError(f"the loop ended with status {loop.returncode}, the replay with {player.returncode}")
    return records


@contextlib.contextmanager
def _command(arguments: list[Any]) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "foresight", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()


def _read(process: subprocess.Popen, records: list[dict[str, Any]]) -> None:
    for line in process.stdout or ():
        records.append(json.loads(line))


def _figures(records: list[dict[str, Any]], speed: float, minutes: float) -> dict[str, Any]:
    windows = [record for record in records if record["event"] == "window"]
    served = [entry for record in records for entry in record.get("served", ())]
    if len(served) < 3:
        errors = [error for record in records for error in record.get("errors", ())]
        raise RuntimeError(f"only {len(served)} versions answered in {minutes:g} minutes; errors: {errors[:3]}")
    measured = served[1:]
    # What waited for the first version's export isn't what a loop in its stride does.
    covered = [entry for version in measured[1:] for entry in version["windows"]]

    def values(name: str) -> np.ndarray:
        return np.array([entry[name] for entry in covered if entry[name] is not None])

    close, labels = values("close_to_answer_s"), values("label_to_served_s")
    at = f"at speed {speed:g}"
    goals = _goals(close, labels, windows, at)
    result = report("freshness", goals, "tensorflow", "keras", "grpcio", "lmdb")
    stages = sorted({stage for version in measured for stage in version["seconds"]})
    result["figures"] = {
        name: {f"p{place}": round(_p(values(name), place), 3) for place in (50, 95, 100)}
        for name in ("close_to_answer_s", "end_to_answer_s", "event_to_served_s", "label_to_served_s")
    }
    result["stages"] = {
        stage: {f"p{place}": round(_p([v["seconds"][stage] for v in measured], place), 3) for place in (50, 95)}
        for stage in stages
    }
    result["cycle"] = {
        name: round(_p([window["seconds"][name] for window in windows], 50), 3) for name in ("learn", "handle")
    }
    result["windows"] = {"closed": len(windows), "measured": len(covered), "versions": len(served)}
    result["examples_a_window"] = round(float(np.median([window["examples"] for window in windows])), 1)
    return result


def _goals(close: np.ndarray, labels: np.ndarray, windows: list[dict[str, Any]], at: str) -> list[dict[str, Any]]:
    skipped = float(windows[-1]["counts"]["windows_skipped"])
    return [
        goal(f"seconds from a window's close to an answer that knows it, p95, {at}", [_p(close, 95)], "<=", _CLOSE_S),
        goal(f"seconds from a label to an answer that knows it, p95, {at}", [_p(labels, 95)], "<=", _SERVED_S),
        goal(f"windows skipped, {at}", [skipped], "<=", 0.0),
    ]


def _p(values: Any, place: float) -> float:
    return float(np.percentile(np.asarray(values, float), place))
