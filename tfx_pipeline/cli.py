"""Commands of `tfx_pipeline`: `foresight pipeline`, `foresight stream` and `foresight taste-change`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import tfx_pipeline.near_real_time.command
import tfx_pipeline.taste_change.command

if TYPE_CHECKING:
    from tfx_pipeline.pipeline_result import PipelineResult


@click.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="YAML file; its keys are the fields of tfx_pipeline.config.PipelineConfig.",
)
@click.option("--span", type=click.IntRange(0), required=True, help="Number of the span of examples.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pipeline(config_file: Path, span: int, as_json: bool) -> None:
    """Validates, trains, evaluates and, if the gate blesses it, pushes a model of one span.

    A rejected model isn't pushed; the reason is printed, and the exit code is 0: the pipeline did its work.
    """
    from tfx_pipeline.config import load_config
    from tfx_pipeline.library_log import library_log
    from tfx_pipeline.local_runner import run_pipeline

    try:
        config = load_config(config_file)
        with library_log(config.pipeline_root / "log.txt") as terminal:

            def show(component: str) -> None:
                if terminal.isatty():
                    click.echo(f"  {component}", file=terminal)

            result = run_pipeline(config, span, show)
    except (OSError, RuntimeError, ValueError) as error:
        raise click.ClickException("\n".join([str(error), *getattr(error, "__notes__", ())])) from error
    click.echo(json.dumps(result.to_json()) if as_json else describe(result))


COMMANDS: list[click.Command] = [
    pipeline,
    *tfx_pipeline.near_real_time.command.COMMANDS,
    *tfx_pipeline.taste_change.command.COMMANDS,
]


def describe(result: "PipelineResult") -> str:
    """The result as people read it."""
    pushed = "not pushed" if result.version is None else f"pushed as version {result.version}"
    lines = [f"span {result.span}: {result.decision}, {pushed}"]
    lines += [f"  {reason}" for reason in (*result.reasons, *result.notes)]
    lines.append(f"  {'task':6} {'AUC':>7} {'GAUC':>7} {'UAUC':>7}  users left out")
    for task, figures in result.tasks.items():
        values = " ".join(_figure(figures[metric]) for metric in ("auc", "gauc", "uauc"))
        lines.append(f"  {task:6} {values}  {figures['users_left_out']} of {figures['users']}")
    if result.forecast_mse is not None:
        errors = ", ".join(f"{name} {_figure(error).strip()}" for name, error in result.forecast_mse.items())
        lines.append(f"  forecast, mean squared error: {errors}")
    lines.append("  seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.stages.items()))
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.4f'):>7}"
