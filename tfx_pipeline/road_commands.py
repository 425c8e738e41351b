"""Commands that drive the whole road: `foresight demo` and `foresight run`."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from tfx_pipeline.library_log import library_log
from tfx_pipeline.output_folder import claim

_SOURCES = ("kuailive_m3", "kuailive", "chat_log")


@click.command()
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/demo"),
    show_default=True,
    help="A new folder, or that of an earlier demo, which is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def demo(seed: int, out: Path, as_json: bool) -> None:
    """Simulates a day, trains and pushes two models over it, and ranks rooms with each.

    Writes OUT/summary.json and OUT/report.html. Afterwards `foresight serve` and `foresight rank` go on with what it
    built.
    """
    from rich.console import Console

    with _errors_in_words(), _log(out, "demo") as terminal:
        from beam_transforms.sources.simulator.simulator_config import PRESETS
        from tfx_pipeline.demo import run_demo

        simulator = dataclasses.replace(PRESETS["demo"], seed=seed)
        summary = run_demo(out, simulator, Console(file=terminal) if as_json else Console())
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(f"{out}/summary.json and {out}/report.html tell the rest.")


@click.command()
@click.option("--source", type=click.Choice(_SOURCES), required=True, help="Layout of the input, see docs/input.md.")
@click.option("--input", "folder", type=click.Path(path_type=Path), required=True, help="Folder with the events.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new folder, or that of an earlier run, which is replaced; build/run/SOURCE by default.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(source: str, folder: Path, out: Path | None, seed: int, as_json: bool) -> None:
    """Drives the whole road on real events, and compares the ranker's variants and gradient-boosted trees.

    The first 80 % of the rooms by start train, what follows evaluates. From a chat log, impressions are derived: on
    each full minute the users who wrote in the ten minutes before, at most 500,000 in all, drawn by --seed.
    """
    from rich.console import Console

    out = out or Path("build/run") / source
    with _errors_in_words(), _log(out, "run") as terminal:
        from tfx_pipeline.real_input import RunConfig, run_real_input
        from tfx_pipeline.stages import Stages

        with Stages(Console(file=terminal), expected=25) as stages:
            figures = run_real_input(RunConfig(source, folder, out, seed=seed), stages)
    click.echo(json.dumps(figures) if as_json else describe_run(figures))


COMMANDS: list[click.Command] = [demo, run]


def describe_run(figures: dict[str, Any]) -> str:
    """The figures of `foresight run` as people read them."""
    lines = [f"note: {note}" for note in figures["notes"]]
    lines.append(
        f"{figures['events']:,} events, {figures['dead_letters']:,} dead letters, {figures['impressions']:,} "
        f"impressions: {figures['train']:,} train, {figures['eval']:,} evaluate"
    )
    if figures["forecast_mse"]:
        errors = ", ".join(f"{name} {_figure(value, 2)}" for name, value in figures["forecast_mse"].items())
        lines.append(f"statistic forecast, mean squared error: {errors}")
    if figures["codebook"]:
        codebook = figures["codebook"]
        lines.append(
            f"codebook {codebook['version']}: {codebook['codes_used']:,} of {codebook['codes']:,} codes used, "
            f"perplexity {codebook['perplexity']:.0f}, of {codebook['trained_on']:,} segments"
        )
    if figures["semantic_id_hits"]:
        hits = ", ".join(
            f"{name} {_figure(rates['hit@1'])} / {_figure(rates['hit@10'])}"
            for name, rates in figures["semantic_id_hits"].items()
        )
        lines.append(f"next semantic id, hit rate at 1 / at 10: {hits}")
    if figures["product_hits"]:
        hits = ", ".join(f"{name} {_figure(rate)}" for name, rate in figures["product_hits"].items())
        lines.append(f"next product's category, hit rate: {hits}")
    if figures["semantic_ids"]:
        lines.append(f"semantic ids of a session under its message rate: {figures['semantic_ids']['plot']}")
    lines.append(f"{'task':6} {'model':20} {'AUC':>7} {'GAUC':>7} {'UAUC':>7}")
    for task, by_model in figures["tasks"].items():
        for name, rates in by_model.items():
            if name not in ("users_left_out", "differences"):
                values = " ".join(f"{_figure(rates[metric]):>7}" for metric in ("auc", "gauc", "uauc"))
                lines.append(f"{task:6} {name:20} {values}")
        for words, by_metric in by_model["differences"].items():
            intervals = ", ".join(
                f"{metric.upper()} {_figure(i['value'])} [{_figure(i['low'])}, {_figure(i['high'])}]"
                for metric, i in by_metric.items()
            )
            lines.append(f"{task:6} {words}: {intervals}")
    for variant, pushed in figures["pushed"].items():
        lines += [f"variant {variant}: {pushed['decision']}", *(f"  {reason}" for reason in pushed["reasons"])]
    lines.append(f"{figures['wall_seconds']:.0f} seconds")
    return "\n".join(lines)


def _figure(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


@contextlib.contextmanager
def _log(out: Path, command: str) -> Iterator[TextIO]:
    """The log in a folder, once it is known to be the command's."""
    claim(out, command)
    with library_log(out / "log.txt") as terminal:
        yield terminal


@contextlib.contextmanager
def _errors_in_words() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise click.ClickException("\n".join([str(error), *getattr(error, "__notes__", [])])) from error
