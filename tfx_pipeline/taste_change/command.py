"""The command `foresight taste-change`."""

import dataclasses
import json
import sys
from pathlib import Path

import click


@click.command("taste-change")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/taste_change"), show_default=True
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--minutes",
    type=click.IntRange(5),
    help="Simulated minutes after noon; from 61 on, the hourly model learns at 13:00.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def taste_change(out: Path, seed: int, minutes: int | None, as_json: bool) -> None:
    """Flips users' preferences at noon, and shows who learns it: the near-real-time model, and not the hourly one.

    Writes OUT/summary.json, OUT/taste_change.svg and OUT/report.html.
    """
    from tfx_pipeline.library_log import library_log

    try:
        with library_log(out / "log.txt") as terminal:
            from tfx_pipeline.report.taste_change_report import verdict, write_taste_change
            from tfx_pipeline.taste_change.config import TasteChangeConfig
            from tfx_pipeline.taste_change.experiment import run_taste_change

            config = TasteChangeConfig(seed=seed)
            if minutes is not None:
                config = dataclasses.replace(config, after_s=60 * minutes)
            tell = (lambda line: click.echo(f"  {line}", file=terminal)) if sys.stderr.isatty() else None
            summary = run_taste_change(config, out, tell)
            write_taste_change(summary, out)
    except (OSError, RuntimeError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(summary) if as_json else f"{verdict(summary)}.\n{out}/report.html tells the rest.")


COMMANDS: list[click.Command] = [taste_change]
