"""The whole road on a folder of real events: variants of the ranker, and trees beside them."""

import dataclasses
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_transforms.columnar import match_rows
from beam_transforms.impressions import IMPRESSION_KEY, ActiveUserImpressions
from beam_transforms.pipeline import build_examples
from beam_transforms.schema import EventKind, RankingSchema
from beam_transforms.sources.described_chat_log import DescribedChatLog
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.source import DeadLetter, Source
from beam_transforms.spans import SingleSpan
from beam_transforms.train_codebook import codebook_figures, train_codebook
from keras_models.metrics import grouped_auc, paired_bootstrap
from keras_models.ranker_config import VARIANTS
from tfx_pipeline.config import PipelineConfig, TrainingConfig
from tfx_pipeline.file_names import FORECAST_FIGURES
from tfx_pipeline.local_runner import run_pipeline
from tfx_pipeline.output_folder import own_folder
from tfx_pipeline.pipeline_result import PipelineResult
from tfx_pipeline.semantic_id_timeline import write_semantic_id_timeline
from tfx_pipeline.spans import read_schema
from tfx_pipeline.stages import Stages
from tfx_pipeline.trees import tree_scores

_TRAIN_SHARE = 0.8
_NEEDS_SEMANTIC_IDS = ("historical_content", "foresight_prediction")
_CODES = {"chat_log": 500}  # one author's log has few kinds of segments
_MOST_CODES = 20_000
_CONTENT_LENGTHS = (16, 16)  # on two cores a longer sequence costs more time than it tells
_EMBEDDING_DROPOUT = 0.3  # several passes over one log learn ids by heart sooner than a stream that is seen once
_FIGURES = ("auc", "gauc", "uauc")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A run on real events.

    Attributes:
        source: Name of the reader.
        folder: The input.
        out: Folder for examples, pipelines and models: a new or empty one, or that of an earlier run. What that left is
            removed as soon as the input is known to be usable.
        most_impressions: For a source that doesn't tell impressions: how many of the derived ones are kept.
        seed: Of that choice, of training and of the bootstrap.
        epochs: Passes over the train examples.
        resamples: Of the bootstrap.
    """

    source: str
    folder: Path
    out: Path
    most_impressions: int = 500_000
    seed: int = 0
    epochs: int = 3
    resamples: int = 500


def run_real_input(config: RunConfig, stages: Stages) -> dict[str, Any]:
    """Reads, transforms, trains each variant through the TFX pipeline, and compares them on the same later examples.

    The first 80 % of the rooms by start train; what is shown from the start of the next one on evaluates. Each
    variant's model is gated and, if blessed, pushed to `<out>/models/ranker_<variant>`.

    Returns:
        {"source", "notes", "events", "dead_letters", "impressions", "train", "eval", "codebook", "semantic_ids":
        {"json", "plot"}, the files of a chat log's `write_semantic_id_timeline`, "forecast_mse", "semantic_id_hits",
        "product_hits", "tasks": {task: {variant or "trees": {"auc", "gauc", "uauc"}, "users_left_out", "differences":
        {"<variant> - <other>": {metric: {"value", "low", "high"}}}}}, "pushed": {variant: {"decision", "version",
        "reasons"}}, "stages", "wall_seconds"}. What the input doesn't tell is None. Differences are those of each
        variant to `base` and of the last one to the trees, with 95 % intervals of the paired bootstrap over users.

    Raises:
        RuntimeError: If another run goes on in `out`.
        ValueError: If the input can't be used, or `out` holds what no run made; the message says why.
    """
    with own_folder(config.out, "run"):
        return _run_alone(config, stages)


def _run_alone(config: RunConfig, stages: Stages) -> dict[str, Any]:
    begin = time.monotonic()
    with stages.stage("open the source and find the split"):
        source = open_source(config.source, config.folder)
        plan = SingleSpan(cut_ms=split_time(source))
        if config.source == "chat_log":
            source = DescribedChatLog(config.folder, plan.cut_ms)
    for name in ("codebook", "examples", "pipeline", "models"):
        shutil.rmtree(config.out / name, ignore_errors=True)
    with stages.stage("codebook of semantic ids"):
        most_codes = _CODES.get(config.source, _MOST_CODES)
        codebook = train_codebook(source, plan.cut_ms, most_codes, config.out / "codebook", config.seed)
    with stages.stage("events to windows and examples"):
        derived = ActiveUserImpressions(config.most_impressions, config.seed) if _only_tells_actions(source) else None
        examples = build_examples(
            source,
            config.out / "examples",
            plan,
            impressions=derived,
            codebook=codebook,
            content_lengths=_CONTENT_LENGTHS,
        )
        schema = read_schema(config.out / "examples")
    semantic_ids = None
    if config.source == "chat_log" and codebook is not None:
        with stages.stage("semantic ids under the message rate"):
            semantic_ids = write_semantic_id_timeline(source, codebook, plan.cut_ms, config.out)
    results: dict[str, PipelineResult] = {}
    for variant in variants_of(schema):
        with stages.stage(f"pipeline, variant {variant}"):
            results[variant] = run_pipeline(_pipeline_config(config, variant), 0, stages.step)
    scored = {name: pq.read_table(result.evaluation / "predictions.parquet") for name, result in results.items()}
    base = scored["base"]
    with stages.stage("gradient-boosted trees on the same impressions"):
        keys = [base[name].to_numpy() for name in IMPRESSION_KEY]
        trees = tree_scores(config.out / "examples" / "Span-0", schema, keys, config.seed)
    with stages.stage("compare"):
        rows = {
            name: match_rows([table[key].to_numpy() for key in IMPRESSION_KEY], keys) for name, table in scored.items()
        }
        tasks = {}
        for task in schema.task_names:
            scores = {name: table[f"score_{task}"].to_numpy()[rows[name]] for name, table in scored.items()}
            tasks[task] = _compare(base, task, {**scores, "trees": trees[task]}, config)
    manifest = examples.spans[0]
    return {
        "source": config.source,
        "notes": list(source.notes),
        "events": examples.events,
        "dead_letters": examples.dead_letters,
        "impressions": examples.impressions,
        "train": manifest["train"],
        "eval": manifest["eval"],
        "codebook": None if codebook is None else codebook_figures(codebook),
        "semantic_ids": semantic_ids,
        **{name: _first(getattr(result, name) for result in results.values()) for name in FORECAST_FIGURES},
        "tasks": tasks,
        "pushed": {
            name: {"decision": result.decision, "version": result.version, "reasons": list(result.reasons)}
            for name, result in results.items()
        },
        "stages": stages.to_json(),
        "wall_seconds": round(time.monotonic() - begin, 1),
    }


def split_time(source: Source) -> int:
    """The start of the first room after the first 80 % of them; without room metadata, of the first impression.

    Raises:
        ValueError: If the source holds nothing to split.
    """
    times: dict[EventKind, list[np.ndarray]] = {EventKind.ROOM_START: [], EventKind.EXPOSURE: []}
    for partition in source.partitions():
        for batch in source.read(partition):
            if not isinstance(batch, DeadLetter):
                kinds = batch["kind"].to_numpy()
                for kind, found in times.items():
                    found.append(batch["timestamp_ms"].to_numpy()[kinds == kind])
    for found in times.values():
        ordered = np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
        if len(ordered) > 1:
            cut = ordered[int(len(ordered) * _TRAIN_SHARE)]
            later = ordered[ordered > ordered[0]]
            if len(later):
                return int(max(cut, later[0]))
    raise ValueError(
        "the source holds fewer than two rooms, or impressions, of different times: there is nothing to split by time; "
        f"its notes: {'; '.join(source.notes) or 'none'}"
    )


def _only_tells_actions(source: Source) -> bool:
    """Whether impressions have to be derived: no metric and no task of the schema knows them."""
    kinds = {metric.kind for metric in source.schema.metrics} | {task.kind for task in source.schema.tasks}
    return not kinds & {EventKind.EXPOSURE, EventKind.ENTER, EventKind.LEAVE}


def _pipeline_config(config: RunConfig, variant: str) -> PipelineConfig:
    return PipelineConfig(
        examples=config.out / "examples",
        pipeline_root=config.out / "pipeline" / variant,
        model_dir=config.out / "models",
        model_name=f"ranker_{variant}",
        model={"variant": variant, "embedding_dropout": _EMBEDDING_DROPOUT},
        training=TrainingConfig(epochs=config.epochs, batch_size=512, shuffle_examples=100_000, seed=config.seed),
    )


def _compare(base: pa.Table, task: str, scores: dict[str, np.ndarray], config: RunConfig) -> dict[str, Any]:
    known = base[f"mask_{task}"].to_numpy()
    users, labels = base["user_id"].to_numpy()[known], base[f"label_{task}"].to_numpy()[known]
    scores = {name: values[known] for name, values in scores.items()}
    figures: dict[str, Any] = {}
    for name, values in scores.items():
        grouped = grouped_auc(users, labels, values)
        figures[name] = {figure: _number(getattr(grouped, figure)) for figure in _FIGURES}
    figures["users_left_out"] = grouped.users_left_out
    variants = [name for name in scores if name not in ("base", "trees")]
    pairs = [*((variant, "base") for variant in variants), (variants[-1], "trees")]
    differences = {}
    for name, other in pairs:
        intervals = paired_bootstrap(
            users, labels, scores[name], scores[other], resamples=config.resamples, seed=config.seed
        )
        differences[f"{name} - {other}"] = {
            figure: {part: _number(getattr(interval, part)) for part in ("value", "low", "high")}
            for figure, interval in intervals.items()
        }
    return {**figures, "differences": differences}


def variants_of(schema: RankingSchema) -> list[str]:
    """The ranker's variants whose sequences the examples hold; `all` where there is more than statistics."""
    lacking: tuple[str, ...] = ()
    if not schema.semantic_id_length:
        lacking += _NEEDS_SEMANTIC_IDS
    if not schema.product_length:
        lacking += ("product",)
    variants = [variant for variant in VARIANTS if variant not in lacking]
    if schema.semantic_id_length and schema.product_length:
        return variants
    return [variant for variant in variants if variant != "all"]


def _first(values: Iterable[Any]) -> Any:
    """The first that there is."""
    return next((value for value in values if value is not None), None)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
