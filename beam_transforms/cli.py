"""Commands of the input side: `foresight simulate` and `foresight replay`."""

import dataclasses
import json
import sys
from pathlib import Path

import click

from beam_transforms.replay_command import replay


@click.command()
@click.option(
    "--preset",
    type=click.Choice(["tiny", "demo", "large"]),
    default="demo",
    show_default=True,
    help="tiny: 10,000 events for tests; demo: a day, 1.6 million; large: three days, 23 million.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same files.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to create; it appears whole."
)
@click.option(
    "--taste-change-s",
    type=click.IntRange(0),
    help="Seconds after the start at which users' preferences flip, see docs/simulator.md; never by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def simulate(preset: str, seed: int, out: Path, taste_change_s: int | None, as_json: bool) -> None:
    """Simulate a live-streaming platform and write its log in the KuaiLive-M3 layout."""
    from rich.console import Console
    from rich.progress import Progress

    from beam_transforms.sources.simulator import PRESETS, SimulationSummary
    from beam_transforms.sources.simulator import simulate as run

    config = dataclasses.replace(PRESETS[preset], seed=seed, taste_change_s=taste_change_s)
    summary: SimulationSummary
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("simulating", total=1.0)
        try:
            summary = run(config, out, lambda done: progress.update(bar, completed=done))
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"preset": preset, "seed": seed, "out": str(out), **summary.to_json()}))
        return
    click.echo(
        f"{out}: {summary.events:,} events of {summary.impressions:,} impressions in {summary.rooms:,} rooms, "
        f"{summary.bytes / 1e6:.0f} MB, in {summary.wall_seconds:.1f} s "
        f"({summary.events_per_cpu_second:,.0f} events per CPU-second)"
    )
    for file, rows in summary.rows.items():
        click.echo(f"  {file:<48} {rows:>12,} rows")
    click.echo("positives per impression: " + "  ".join(f"{task} {rate:.2%}" for task, rate in summary.rates.items()))


COMMANDS: list[click.Command] = [simulate, replay]
