"""Publishing: a push of the demo's model in seconds, of a large one against `cp`, and a snapshot of touched rows.

Models are built from the demo's schema and settings with weights at random; nothing is trained but the step before each
push, which leaves variables as a training leaves them. A push ends when the disk has it. `cp` writes the same bytes in
the same round, with and without an fsync of the copy.
"""

import dataclasses
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from beam_transforms.schema import CATEGORIES, LIVE_SCHEMA
from benchmarks.harness import goal, report

if TYPE_CHECKING:
    from keras_models.ranker import LiveRanker

OPTIONS: list[click.Option] = [
    click.Option(["--rounds"], type=click.IntRange(1), default=7, show_default=True, help="Pushes of each model."),
    click.Option(
        ["--parameters"], type=click.IntRange(1000), default=100_000_000, show_default=True, help="Of the large model."
    ),
]

_DEMO_SETTINGS = {"variant": "all", "forecaster_layers": 1}
_DEMO_CONTENT: dict[str, Any] = {"semantic_id_length": 12, "codes": 256, "product_length": 4, "categories": CATEGORIES}
_WINDOW = 4096
"""Examples of a window, whose rows a delta gathers."""


def run(rounds: int = 7, parameters: int = 100_000_000) -> dict[str, Any]:
    """Ratios of times measured in the same round, medians over rounds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    if keras.backend.backend() != "tensorflow":
        raise click.ClickException("exports need KERAS_BACKEND=tensorflow")
    keras.utils.set_random_seed(0)
    times = {}
    for name, ranker in (("demo", _demo_ranker()), ("large", _large_ranker(parameters))):
        with tempfile.TemporaryDirectory(prefix="publish-bench-") as folder:
            times[name] = _measure(ranker, Path(folder), rounds)
        times[name]["parameters"] = [ranker.count_params()]
        del ranker
    large = times["large"]
    millions = f"{large['parameters'][0] / 1e6:,.0f} M parameters"
    goals = [
        goal("seconds to push the demo's model", times["demo"]["push_s"], "<=", 0.5),
        goal(f"push of {millions} / cp and fsync of the same bytes", _ratios(large, "push_s", "cp_fsync_s"), "<=", 3.0),
        goal(f"push of {millions} / cp alone, which nothing waits for", _ratios(large, "push_s", "cp_s"), "<=", 3.0),
        goal(
            f"snapshot of the rows of {_WINDOW:,} examples / of all {millions}",
            _ratios(large, "delta_s", "full_s"),
            "<=",
            0.2,
        ),
    ]
    result = report("publish", goals, "keras", "tensorflow", "numpy")
    result["medians"] = {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in times.items()
    }
    return result


def _ratios(times: dict[str, list[float]], above: str, below: str) -> list[float]:
    return [one / other for one, other in zip(times[above], times[below], strict=True)]


def _demo_ranker() -> "LiveRanker":
    from keras_models.ranker import LiveRanker
    from tfx_pipeline.ranker_settings import ranker_config

    return LiveRanker(ranker_config(dataclasses.replace(LIVE_SCHEMA, **_DEMO_CONTENT), _DEMO_SETTINGS))


def _large_ranker(parameters: int) -> "LiveRanker":
    """Nearly all of it the users' table, as in a deployment."""
    from keras_models.ranker import LiveRanker
    from tfx_pipeline.ranker_settings import ranker_config

    settings = {"variant": "base", "embedding_dim": 16}
    rest = LiveRanker(ranker_config(LIVE_SCHEMA, {**settings, "user_bins": 1})).count_params()
    return LiveRanker(ranker_config(LIVE_SCHEMA, {**settings, "user_bins": max(1, (parameters - rest) // 16 + 1)}))


def _measure(ranker: "LiveRanker", folder: Path, rounds: int) -> dict[str, list[float]]:
    from keras_models.export import export_ranker
    from keras_models.weight_snapshot import WeightSnapshot, touched_rows
    from serving.checkpoint_publisher import CheckpointPublisher
    from serving.publisher import publish

    manifest = _manifest()
    export_ranker(ranker, folder / "export")
    begin = time.perf_counter()
    publish(folder / "export", folder, manifest, _warm_up(ranker), keep=2)
    times: dict[str, list[float]] = {"publish_s": [time.perf_counter() - begin]}
    shutil.rmtree(folder / "export")
    ranker.compile_defaults()
    snapshot, batches = WeightSnapshot(ranker), _batches(ranker)
    with CheckpointPublisher(folder, manifest["model_name"], keep=2) as publisher:
        for number in range(rounds + 1):
            inputs, labels = next(batches)
            ranker.train_on_batch(inputs, labels)
            snapshot.update()
            full_s = _seconds(snapshot.update)
            rows: dict[str, np.ndarray] = {}
            rows_s = _seconds(lambda inputs=inputs, rows=rows: rows.update(touched_rows(ranker, inputs)))
            delta_s = _seconds(lambda rows=rows: snapshot.update(rows))
            weights = snapshot.update(rows)
            push_s = _seconds(lambda weights=weights: publisher.push(weights, manifest))
            cp_s, fsync_s = _copy(folder / manifest["model_name"] / str(publisher.version), folder / "copy")
            measured = {
                "push_s": push_s, "cp_s": cp_s, "cp_fsync_s": cp_s + fsync_s,
                "full_s": full_s, "rows_s": rows_s, "delta_s": rows_s + delta_s,
            }  # fmt: skip
            if number:  # the first one makes kernels and allocators ready
                for name, seconds in measured.items():
                    times.setdefault(name, []).append(seconds)
    return times


def _seconds(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _copy(version: Path, copy: Path) -> tuple[float, float]:
    """Seconds of `cp -r` of a version, and of an fsync of what it wrote."""
    copied = _seconds(lambda: subprocess.run(["cp", "-r", str(version), str(copy)], check=True))  # noqa: S603, S607

    def synchronise() -> None:
        for path in [*copy.rglob("*"), copy]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    synchronised = _seconds(synchronise)
    shutil.rmtree(copy)
    return copied, synchronised


def _manifest() -> dict[str, Any]:
    return {
        "model_name": "live_ranker",
        "span": 0,
        "newest_event_ms": 0,
        "parent_version": None,
        "tasks": {},
        "decision": "blessed",
        "reasons": ["random weights"],
    }


def _batches(ranker: "LiveRanker") -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Windows of examples, ids and labels at random."""
    generator = np.random.default_rng(0)
    while True:
        inputs = {
            name: generator.integers(0, 2 if name.startswith(("product_cat", "semantic", "run")) else 10**7, size)
            if dtype == "int64"
            else generator.random(size, np.float32)
            for name, (dtype, shape) in ranker.config.input_shapes.items()
            for size in [(_WINDOW, *shape)]
        }
        labels = {task: generator.integers(0, 2, (_WINDOW, 1)).astype(np.float32) for task in ranker.config.tasks}
        yield inputs, labels


def _warm_up(ranker: "LiveRanker") -> list[bytes]:
    from serving.tensors import predict_request

    shapes = {"serving_default": ranker.config.input_shapes, "rank": ranker.config.rank_shapes}
    if ranker.config.foresight_size:
        shapes["forecast"] = ranker.config.room_shapes
    return [
        predict_request(
            "live_ranker",
            {name: np.zeros((2, *shape), dtype) for name, (dtype, shape) in inputs.items()},
            signature_name=signature,
        ).SerializeToString()
        for signature, inputs in shapes.items()
    ]
