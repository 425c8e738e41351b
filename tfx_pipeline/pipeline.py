"""The TFX pipeline of one span: validate, train, evaluate, push."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# `tfx.v1` would be the public door, but it imports Google Cloud's SDK too: seconds that no local run needs.
from tfx.components import StatisticsGen, Trainer
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing, PushedModel

from beam_transforms.schema import RankingSchema, schema_to_json
from tfx_pipeline.components.curated_schema import write_curated_schema
from tfx_pipeline.components.latest_pushed_model_strategy import LatestPushedModelStrategy
from tfx_pipeline.components.ranking_evaluator import RankingEvaluator
from tfx_pipeline.components.span_example_gen import SpanExampleGen
from tfx_pipeline.components.strict_example_validator import StrictExampleValidator
from tfx_pipeline.components.version_pusher import VersionPusher
from tfx_pipeline.config import GateConfig, TrainingConfig

PIPELINE_NAME = "live_foresight"

LOCAL_BEAM_ARGS = (
    # Beam's default runner tries to download a binary first; this one needs nothing.
    "--runner=FnApiRunner",
    # Not used by this runner; without it TFX packs its own sources for workers elsewhere, seconds each time.
    "--sdk_container_image=none",
)


def create_pipeline(
    *,
    pipeline_root: Path,
    examples: Path,
    schema: RankingSchema,
    span: int | None = None,
    model: Mapping[str, Any],
    training: TrainingConfig,
    gate: GateConfig,
    evaluation_batch_size: int,
    model_dir: Path,
    model_name: str,
    warmup_rows: int,
    models_config: Path | None = None,
    beam_pipeline_args: Sequence[str] = LOCAL_BEAM_ARGS,
) -> Pipeline:
    """SpanExampleGen, StatisticsGen, ImportSchemaGen, StrictExampleValidator, LatestPushedModel, Trainer,
    RankingEvaluator and VersionPusher.

    What hasn't changed comes from the cache: a run that was killed goes on where it stopped. The cache knows examples
    (by fingerprint), settings, seeds, the model started from and the code, so it never gives back a model that a new
    training wouldn't give. The pusher is never cached. A span that was pushed and is run again trains a new candidate
    from the pushed model, and the gate decides again.

    Args:
        pipeline_root: Folder for artifacts and the metadata store.
        examples: Folder with the spans.
        schema: What the examples hold.
        span: Which span; the latest one if None.
        model: Settings of the ranker that aren't the schema's.
        training: How to train.
        gate: What a candidate must show.
        evaluation_batch_size: Examples scored at once.
        model_dir: Folder that the model server watches.
        model_name: Name under which the model is served.
        warmup_rows: Eval examples in each of the requests that a version is warmed up with.
        models_config: The model server's configuration; versions that it names are kept.
        beam_pipeline_args: Where and how Beam runs (StatisticsGen uses it).
    """
    code = _code_fingerprint()
    example_gen = SpanExampleGen(input_base=str(examples), span=span)
    statistics_gen = StatisticsGen(examples=example_gen.outputs["examples"])
    schema_gen = ImportSchemaGen(schema_file=str(write_curated_schema(schema, pipeline_root / "schemas")))
    validator = StrictExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )
    served = Resolver(
        strategy_class=LatestPushedModelStrategy,
        model=Channel(type=Model),
        model_blessing=Channel(type=ModelBlessing),
        pushed_model=Channel(type=PushedModel),
    ).with_id("LatestPushedModel")
    trainer = Trainer(
        run_fn="tfx_pipeline.trainer_module.run_fn",
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        base_model=served.outputs["model"],
        custom_config={
            "schema": schema_to_json(schema),
            "model": dict(model),
            "training": dataclasses.asdict(training),
            "code": code,
        },
    )
    trainer.add_upstream_node(validator)
    evaluator = RankingEvaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=served.outputs["model"],
        gate=json.dumps(dataclasses.asdict(gate), sort_keys=True),
        batch_size=evaluation_batch_size,
        code=code,
    )
    pusher = VersionPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        evaluation=evaluator.outputs["evaluation"],
        examples=example_gen.outputs["examples"],
        served_model=served.outputs["pushed_model"],
        model_dir=str(model_dir),
        model_name=model_name,
        warmup_rows=warmup_rows,
        models_config=str(models_config or ""),
        requested_ns=time.time_ns(),
    )
    return Pipeline(
        pipeline_name=PIPELINE_NAME,
        pipeline_root=str(pipeline_root),
        components=[example_gen, statistics_gen, schema_gen, validator, served, trainer, evaluator, pusher],
        enable_cache=True,
        metadata_connection_config=metadata.sqlite_metadata_connection_config(str(pipeline_root / "metadata.sqlite")),
        beam_pipeline_args=list(beam_pipeline_args),
    )


def _code_fingerprint() -> str:
    """Changes whenever the code that trains and evaluates does."""
    project = Path(__file__).parents[1]
    sources = [*project.glob("keras_models/**/*.py"), *project.glob("tfx_pipeline/**/*.py")]
    digest = hashlib.sha256()
    for path in sorted([*sources, project / "beam_transforms" / "schema.py"]):
        digest.update(path.relative_to(project).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
