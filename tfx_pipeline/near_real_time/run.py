"""Puts the near-real-time loop together and runs it."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock

from beam_transforms.codebook import Codebook
from beam_transforms.local_stream import LocalStream
from beam_transforms.schema import LIVE_SCHEMA, RankingSchema, schema_from_json
from beam_transforms.sources.open_live_source import open_live_source
from beam_transforms.spans import SpanPlan, utc
from keras_models.ranker_config import RankerConfig
from serving.version_manifest import VersionManifest
from tfx_pipeline.file_names import EXTRA_FOLDER, WEIGHTS_FILE
from tfx_pipeline.near_real_time.config import StreamConfig
from tfx_pipeline.near_real_time.label_policy import label_policy
from tfx_pipeline.near_real_time.learner import HEAD, StreamLearner
from tfx_pipeline.near_real_time.loop import NearRealTimeLoop
from tfx_pipeline.near_real_time.publisher import StreamPublisher, loadable_versions
from tfx_pipeline.near_real_time.server import StreamServer
from tfx_pipeline.near_real_time.stop_request import StopRequest
from tfx_pipeline.near_real_time.trainer import StreamTrainer
from tfx_pipeline.near_real_time.version_mark import version_mark
from tfx_pipeline.ranker_settings import ranker_config
from tfx_pipeline.spans import read_schema

STATE_FOLDER = "stream"
"""In the folder of examples: the learner's state, the summary, the lock and the libraries' log."""


@dataclasses.dataclass(frozen=True)
class StreamPaths:
    """Where a loop reads and writes; the options of `foresight stream`."""

    source: str
    examples: Path
    model_dir: Path
    model_name: str
    store: str | None = None
    address: str | None = None
    server_config: Path | None = None
    base: int | None = None
    schema: Path | None = None
    codebook: Path | None = None


def run_stream(
    paths: StreamPaths, config: StreamConfig, tell: Callable[[dict[str, Any]], None], try_again: bool = False
) -> str | None:
    """Runs a loop until its source has ended or a signal comes.

    Args:
        paths: Where it reads and writes.
        config: What it can be told.
        tell: Called with each record.
        try_again: Whether to go on learning after a stop.

    Returns:
        Why learning was stopped; None if it wasn't.

    Raises:
        RuntimeError: If another loop runs in the folder.
        ValueError: If something doesn't fit (base, schema, state of before), or the stream has ended before and nothing
            is left to do.
    """
    folder = paths.examples / STATE_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", timeout=0), StopRequest() as request:
            return _run(paths, config, tell, try_again, folder, request)
    except filelock.Timeout as error:
        raise RuntimeError(
            f"another loop runs in {paths.examples} (it holds {folder / '.lock'}); stop it, or take another folder"
        ) from error


def _run(
    paths: StreamPaths,
    config: StreamConfig,
    tell: Callable[[dict[str, Any]], None],
    try_again: bool,
    folder: Path,
    request: StopRequest,
) -> str | None:
    schema = _schema(paths)
    codebook = Codebook.load(paths.codebook) if paths.codebook is not None else None
    width = codebook.width if codebook is not None else None
    source, clock = open_live_source(paths.source, "foresight-stream", width)
    plan = SpanPlan(round(config.span_s * 1000), config.eval_fraction)
    stream = LocalStream(
        source,
        paths.examples,
        schema,
        plan,
        label_policy(config, schema.tasks),
        codebook,
        paths.store,
        round(config.lateness_s * 1000),
        poll_s=config.poll_s,
    )
    versions = loadable_versions(paths.model_dir, paths.model_name)
    base = _base(paths, versions, folder)
    learner, start, adopted = _learner(paths, config, schema, base, folder)
    if try_again:
        learner.try_again()
    ended = _ended(paths, stream, learner, adopted is not None)
    tell({"event": "start", "start": "; ".join([start, *ended]), "adopted": adopted})
    learner.trainer.trace()

    def started(address: str) -> None:
        tell({"event": "server", "address": address})

    with StreamServer(
        paths.model_dir, paths.model_name, paths.store, paths.address, paths.server_config, started
    ) as server:
        seen = max(versions, default=0)
        publisher = StreamPublisher(server, schema, config.keep_versions, config.serving_timeout_s, seen)
        if base is not None:
            publisher.go_on_from(base)
        loop = NearRealTimeLoop(learner, publisher, server, plan, config, folder, clock, tell, newest=base)
        loop.run(request.until_stopped(stream.windows()), lambda: request.requested)
    return learner.stopped


def _base(paths: StreamPaths, versions: Sequence[int], folder: Path) -> int | None:
    """The version to go on from: what was asked for is that of a new loop, one that goes on has left it behind."""
    is_new = not (folder / HEAD).exists()
    return paths.base if is_new and paths.base is not None else max(versions, default=None)


def _learner(
    paths: StreamPaths, config: StreamConfig, schema: RankingSchema, base: int | None, folder: Path
) -> tuple[StreamLearner, str, dict[str, Any] | None]:
    """The learner as it was left, or one that starts from a version, or anew; in words which; what it has adopted."""
    adopted, gone = None, ""
    if base is None:
        trainer = StreamTrainer.new(ranker_config(schema, config.model), config.training)
        learner = StreamLearner(trainer, folder, config.gate)
        start = "a new model"
    else:
        version = paths.model_dir / paths.model_name / str(base)
        trainer = StreamTrainer.from_version(version, config.training)
        require_schema(trainer.ranker.config, schema, f"version {base}")
        newest_event_ms, mark = VersionManifest.read(version).newest_event_ms, version_mark(version)
        learner = StreamLearner(trainer, folder, config.gate, newest_event_ms, base, mark)
        start = f"version {base}"
        known = learner.version
        if _is_of_others(learner, version):
            if known is not None and not learner.is_of(version.parent / str(known)):
                gone = f"; version {known}, which was published from it, is gone or another one now"
            adopted = {"version": base, "windows_dropped": learner.adopt(version)}
    if learner.end_ms is not None:
        start = f"the window that ended at {learner.end_ms}, {learner.windows['trained']} windows learned"
    return learner, start + gone, adopted


def _is_of_others(learner: StreamLearner, newest: Path) -> bool:
    """Whether the newest version was published by someone else while the loop stood still."""
    known = learner.version
    if known is not None and int(newest.name) <= known:
        return not learner.is_of(newest)  # a lower one where numbers began anew
    own = newest.parent / str(known)
    if known is not None and own.exists() and not learner.is_of(own):
        return True
    return (newest / EXTRA_FOLDER / WEIGHTS_FILE).exists()  # pushes have no such file


def _ended(paths: StreamPaths, stream: LocalStream, learner: StreamLearner, adopted: bool) -> list[str]:
    """What is to be said of a stream that has ended before, and of which something is left to do.

    Raises:
        ValueError: If nothing is left: its last window was dealt with, and the weights of then answer.
    """
    ended_ms = stream.ended_ms()
    if ended_ms is None:
        return []
    said = f"the stream in {paths.examples} ended at {utc(ended_ms)}: nothing more of {paths.source} is read"
    if learner.end_ms == ended_ms and learner.published == learner.number and not adopted:
        raise ValueError(f"{said}; take another folder for --examples to learn from a new stream")
    return [said]


def require_schema(config: RankerConfig, schema: RankingSchema, where: str) -> None:
    """Raises a ValueError that says what differs unless a ranker takes and gives what the schema says."""
    features = {feature.name: (feature.dtype, feature.shape) for feature in schema.inputs}
    differing = [
        f"its input {name!r} is {dtype} {shape}, in the schema {features.get(name, 'missing')}"
        for name, (dtype, shape) in config.input_shapes.items()
        if features.get(name) != (dtype, shape)
    ]
    if config.tasks != schema.task_names:
        differing.append(f"its tasks are {config.tasks}, in the schema {schema.task_names}")
    if differing:
        raise ValueError(f"{where} doesn't fit schema {schema.name!r}: {'; '.join(differing)}")


def _schema(paths: StreamPaths) -> RankingSchema:
    if paths.schema is not None:
        try:
            return schema_from_json(json.loads(paths.schema.read_text()))
        except ValueError as error:
            raise ValueError(f"{paths.schema}: {error}") from error
    if (paths.examples / "schema.json").exists():
        return read_schema(paths.examples)
    return LIVE_SCHEMA
