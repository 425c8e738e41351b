"""Runs the pipeline of one span on this machine."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import absl.logging
import filelock

from beam_transforms.schema import RankingSchema
from serving.label_config import LabelConfig
from tfx_pipeline.config import PipelineConfig
from tfx_pipeline.file_names import EVALUATION_FILE, FORECAST_FIGURES
from tfx_pipeline.gate import require_tasks
from tfx_pipeline.pipeline_result import PipelineResult
from tfx_pipeline.ranker_settings import ranker_config
from tfx_pipeline.spans import read_schema, require_span

if TYPE_CHECKING:
    from tfx_pipeline.pipeline_run import ComponentRun

_LOCK_FILE = ".pipeline.lock"


def run_pipeline(config: PipelineConfig, span: int, progress: Callable[[str], None] | None = None) -> PipelineResult:
    """Validates, trains, evaluates and, if the gate blesses the candidate, pushes. See `create_pipeline` for caching.

    The first call in a process imports TFX, which takes 15 to 30 seconds.

    Args:
        config: The pipeline.
        span: Which span of `config.examples`.
        progress: Called with each component's name when it starts.

    Raises:
        ValueError: The span is missing or has no examples, the examples don't fit the schema, or a setting is wrong.
        OSError: The model server's configuration can't be read.
        RuntimeError: Another pipeline runs in the same root, or a component could not run.
        serving.publish_error.PublishError: The model was blessed and couldn't be published; run again to publish it.
    """
    schema = read_schema(config.examples)
    require_span(config.examples, span)
    require_tasks(schema.task_names, config.gate)
    ranker_config(schema, config.model)
    if config.models_config is not None:
        LabelConfig(config.models_config, config.model_name)
    config.pipeline_root.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(config.pipeline_root / _LOCK_FILE, timeout=0):
            return _run_locked(config, span, schema, progress)
    except filelock.Timeout as error:
        raise RuntimeError(
            f"another pipeline is running in {config.pipeline_root}; wait until it has ended, or use another "
            f"pipeline_root"
        ) from error


def _run_locked(
    config: PipelineConfig, span: int, schema: RankingSchema, progress: Callable[[str], None] | None
) -> PipelineResult:
    from tfx.orchestration import metadata
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner

    from tfx_pipeline.pipeline import create_pipeline
    from tfx_pipeline.pipeline_run import read_latest_run

    root = config.pipeline_root.resolve()
    pipeline = create_pipeline(
        pipeline_root=root,
        examples=config.examples.resolve(),
        schema=schema,
        span=span,
        model=config.model,
        training=config.training,
        gate=config.gate,
        evaluation_batch_size=config.evaluation_batch_size,
        model_dir=config.model_dir.resolve(),
        model_name=config.model_name,
        warmup_rows=config.warmup_rows,
        models_config=config.models_config and config.models_config.resolve(),
    )
    with _quiet(progress):
        LocalDagRunner().run(pipeline)
    with metadata.Metadata(pipeline.metadata_connection_config) as connection:
        run = read_latest_run(connection.store)
    failed = [component for component, execution in run.items() if not execution.succeeded]
    if failed or "VersionPusher" not in run:
        raise RuntimeError(
            f"the pipeline ended before the model was judged: {', '.join(failed) or 'a component'} could not run; "
            f"see the log"
        )
    return _result(run)


def _result(run: "dict[str, ComponentRun]") -> PipelineResult:
    evaluation = Path(run["RankingEvaluator"].outputs["evaluation"].uri)
    report: dict[str, Any] = json.loads((evaluation / EVALUATION_FILE).read_text())
    pushed = run["VersionPusher"].outputs["pushed_model"].custom_properties
    is_pushed = pushed["pushed"].int_value == 1
    return PipelineResult(
        span=report["span"],
        version=int(pushed["pushed_version"].string_value) if is_pushed else None,
        decision=report["decision"],
        reasons=tuple(report["reasons"]),
        notes=tuple(report["notes"]),
        tasks=report["tasks"],
        **{name: report[name] for name in FORECAST_FIGURES},
        stages={component: execution.seconds for component, execution in run.items()},
        cached=tuple(component for component, execution in run.items() if execution.cached),
        evaluation=evaluation,
        model=Path(run["Trainer"].outputs["model"].uri) / "Format-Serving",
        pushed=Path(pushed["pushed_destination"].string_value) if is_pushed else None,
    )


@contextlib.contextmanager
def _quiet(progress: Callable[[str], None] | None) -> Iterator[None]:
    """Lets only errors of TFX and TensorFlow through; tells `progress` which component starts, which is just logged."""

    def listen(record: logging.LogRecord) -> bool:
        if progress is not None and record.msg == "Component %s is running." and isinstance(record.args, tuple):
            progress(str(record.args[0]))
        return record.levelno >= logging.ERROR

    # The level by absl's own function: TensorFlow changes it for a while and then restores what that one has set.
    loggers, verbosity = [logging.getLogger("absl"), logging.getLogger("tensorflow")], absl.logging.get_verbosity()
    for logger in loggers:
        logger.addFilter(listen)
    absl.logging.set_verbosity(absl.logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(listen)
        absl.logging.set_verbosity(verbosity)
