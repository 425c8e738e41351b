"""The whole road on a simulated day: two spans, the second warm-started from the first and pushed over it."""

import dataclasses
import json
import os
import platform
import shutil
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from beam_transforms.codebook import Codebook
from beam_transforms.codebook_drift import drift
from beam_transforms.columnar import to_columns
from beam_transforms.online_store import OnlineStore
from beam_transforms.pipeline import ExamplesSummary, build_examples
from beam_transforms.schema import RankingSchema
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.simulator.simulation import simulate
from beam_transforms.sources.simulator.simulator_config import SimulatorConfig
from beam_transforms.sources.source import DeadLetter, Source
from beam_transforms.spans import SpanPlan
from beam_transforms.train_codebook import codebook_figures, train_codebook
from serving.client import RankingClient
from serving.launch import wait_for_version
from serving.room_side import RoomSide
from tfx_pipeline.config import GateConfig, PipelineConfig, TrainingConfig
from tfx_pipeline.forecast_examples import forecast_examples
from tfx_pipeline.local_runner import run_pipeline
from tfx_pipeline.memory import PeakMemory
from tfx_pipeline.near_real_time.server import StreamServer
from tfx_pipeline.output_folder import own_folder
from tfx_pipeline.pipeline_result import PipelineResult
from tfx_pipeline.report.account import print_account
from tfx_pipeline.report.html_report import write_report
from tfx_pipeline.spans import read_schema
from tfx_pipeline.stages import Stages

_STEPS = 27  # stages, and components of the two pipeline runs: what the progress bar is drawn for
_ROOMS = 10
_CODES = 256
_CONTENT_LENGTHS = (12, 4)  # the demo has minutes; published lengths are 100 and 50


def run_demo(
    folder: Path, simulator: SimulatorConfig, console: Console, gate: GateConfig | None = None
) -> dict[str, Any]:
    """Drives the whole road and writes `summary.json` and `report.html`.

    What an earlier demo left in the folder is removed first: only what is set up is used again.

    Args:
        folder: Where everything goes: a new or empty folder, or that of an earlier demo.
        simulator: What is simulated; its time is cut into two spans, its seed is that of training, too.
        console: Where progress and the account go.
        gate: What a model must show.

    Returns:
        The summary.

    Raises:
        RuntimeError: If another demo runs in the folder.
        ValueError: If the folder holds what no demo made, or the road can't be driven with what the simulator gave.
    """
    with own_folder(folder, "demo"), PeakMemory() as memory, Stages(console, _STEPS) as stages:
        begin = time.monotonic()
        for name in ("data", "codebook", "examples", "online_store", "pipeline", "models"):
            shutil.rmtree(folder / name, ignore_errors=True)
        road = _Road(folder, simulator, gate or GateConfig(), stages)
        road.drive()
        summary = {
            "spans": [_span_summary(result) for result in road.results],
            "stages": stages.to_json(),
            "wall_seconds": round(time.monotonic() - begin, 1),
            "peak_rss_mb": round(memory.megabytes),
            "codebook": road.codebook,
            "drift": road.drift,
            "rank": road.rankings,
        }
        details = {
            "source": f"{simulator.duration_s / 3600:.0f} simulated hours, seed {simulator.seed}: "
            f"{road.examples.events:,} events, {road.examples.impressions:,} impressions",
            "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
            "spans": road.details,
        }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_report(summary, details, folder / "report.html")
    print_account(console, summary, details)
    return summary


class _Road:
    """State of one drive: what each stage leaves for the next."""

    def __init__(self, folder: Path, simulator: SimulatorConfig, gate: GateConfig, stages: Stages) -> None:
        self._folder, self._simulator, self._stages = folder, simulator, stages
        self._config = PipelineConfig(
            examples=folder / "examples",
            pipeline_root=folder / "pipeline",
            model_dir=folder / "models",
            model={"variant": "all", "forecaster_layers": 1},
            training=TrainingConfig(epochs=2, batch_size=512, learning_rate=2e-3, seed=simulator.seed),
            gate=gate,
            evaluation_batch_size=1024,
        )
        self.examples: ExamplesSummary
        self.codebook: dict[str, Any] | None = None
        self.drift: dict[str, Any] | None = None
        self.results: list[PipelineResult] = []
        self.rankings: list[dict[str, Any]] = []
        self.details: list[dict[str, Any]] = []

    def drive(self) -> None:
        with self._stages.stage("simulate a day of live streaming"):
            simulate(self._simulator, self._folder / "data")
        with self._stages.stage("events to windows, examples and online features"):
            source = open_source("kuailive_m3", self._folder / "data")
            plan = SpanPlan(self._simulator.duration_s * 1000 // 2)
            store = self._folder / "online_store"
            first_span = plan.span(np.array([self._simulator.start_ms]))
            first_eval_ms = int(plan.eval_begin_ms(first_span)[0])
            codebook = train_codebook(source, first_eval_ms, _CODES, self._folder / "codebook")
            self.examples = build_examples(
                source,
                self._config.examples,
                plan,
                codebook=codebook,
                content_lengths=_CONTENT_LENGTHS,
                store=store,
                as_of_ms=self._simulator.end_ms,
            )
            first, second = (manifest["span"] for manifest in self.examples.spans)
            if codebook is not None:
                self.codebook = codebook_figures(codebook)
                self.drift = codebook_drift(source, codebook, plan, (first, second))
        schema = read_schema(self._config.examples)
        with self._stages.stage("pipeline on the first span"):
            self._run(schema, first)
        # Both versions are whole exports, so a spare session for the next checkpoint would only take memory.
        server_options = ("--no-prepare-next",)
        model_dir, model_name = self._config.model_dir, self._config.model_name
        with StreamServer(model_dir, model_name, str(store), options=server_options) as server:
            with self._stages.stage("start the model server"):
                server.start()
            with self._stages.stage("rank before the second push"):
                self._rank(server)
            with self._stages.stage("pipeline on the second span"):
                self._run(schema, second)
            with self._stages.stage("rank after the second push"):
                if self.results[-1].version is not None:
                    wait_for_version(server.address, self._config.model_name, self.results[-1].version, 60.0)
                self._rank(server)

    def _run(self, schema: RankingSchema, span: int) -> None:
        result = run_pipeline(self._config, span, self._stages.step)
        self.results.append(result)
        if result.version is None and len(self.results) == 1:
            raise ValueError(f"the first model was rejected, so there is nothing to serve: {'; '.join(result.reasons)}")
        manifest = next(manifest for manifest in self.examples.spans if manifest["span"] == span)
        self.details.append(_span_details(self._config, schema, result, manifest))

    def _rank(self, server: StreamServer) -> None:
        """Ranks by the newest version, after the forecasts of all live rooms were stored under it."""
        store, name = typing.cast(OnlineStore, server.store), self._config.model_name
        version = next(result.version for result in reversed(self.results) if result.version is not None)
        with RoomSide(store, server.address, name, model_config=server.model_config) as room_side:
            room_side.promote(version)
        with RankingClient(server.address, name, store, deadline_s=10.0) as client:
            user_id = _busiest_user(self.results[0])
            ranking = client.rank(user_id, limit=_ROOMS)
        rooms = [{"live_id": room.live_id, "scores": dict(room.scores)} for room in ranking.rooms]
        self.rankings.append({"version": ranking.version, "user_id": user_id, "rooms": rooms})


def codebook_drift(source: Source, codebook: Codebook, plan: SpanPlan, spans: Sequence[int]) -> dict[str, Any] | None:
    """How far the use of the codes moved from the first of the spans to the last, and how many segments each has.

    A segment belongs to the span that it ended in. None if the first or the last span has no segment.
    """
    counts = np.zeros((len(spans), codebook.size), dtype=np.int64)
    for partition in source.segment_partitions():
        for batch in source.read_segments(partition):
            if not isinstance(batch, DeadLetter):
                segments = to_columns([batch])
                codes, ended_in = codebook.assign(segments["embedding"]), plan.span(segments["timestamp_ms"])
                for row, span in enumerate(spans):
                    counts[row] += np.bincount(codes[(ended_in == span) & (codes >= 0)], minlength=codebook.size)
    if not counts[0].any() or not counts[-1].any():
        return None
    return {"segments": counts.sum(axis=1).tolist(), **dataclasses.asdict(drift(counts[0], counts[-1]))}


def _busiest_user(result: PipelineResult) -> int:
    """The user with most eval examples; of several the one with the smallest id."""
    users = pq.read_table(result.evaluation / "predictions.parquet", columns=["user_id"])["user_id"].to_numpy()
    distinct, counts = np.unique(users, return_counts=True)
    return int(distinct[np.argmax(counts)])


def _span_summary(result: PipelineResult) -> dict[str, Any]:
    figures = ("auc", "gauc", "uauc", "users_left_out")
    return {
        "span": result.span,
        "version": result.version,
        "decision": result.decision,
        "reasons": list(result.reasons),
        "tasks": {task: {name: values[name] for name in figures} for task, values in result.tasks.items()},
        "forecast_mse": result.forecast_mse,
        "semantic_id_hits": result.semantic_id_hits,
        "product_hits": result.product_hits,
    }


def _span_details(
    config: PipelineConfig, schema: RankingSchema, result: PipelineResult, manifest: dict[str, int]
) -> dict[str, Any]:
    tasks = result.tasks.items()
    eval_files = sorted(map(str, (config.examples / f"Span-{result.span}" / "eval").glob("*.tfrecord")))
    return {
        "span": result.span,
        "begin_ms": manifest["begin_ms"],
        "end_ms": manifest["end_ms"],
        "train": manifest["train"],
        "eval": manifest["eval"],
        "notes": list(result.notes),
        "intervals": {task: figures.get("interval", {}) for task, figures in tasks},
        "difference": {task: figures["difference"] for task, figures in tasks if "difference" in figures},
        "rates": {task: figures["positives"] / figures["rows"] if figures["rows"] else None for task, figures in tasks},
        "tasks_described": {task.name: task.description for task in schema.tasks},
        "forecasts": forecast_examples(result.model, eval_files, schema),
    }
