"""The command `foresight examples`."""

import dataclasses
import json
from pathlib import Path

import click

_HOUR_MS = 3_600_000
_MOST_HOURS = 876_600  # a hundred years


def _time(context: click.Context, parameter: click.Parameter, time_ms: int | None) -> int | None:
    from beam_transforms.sources.tables.timestamps import MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS

    if time_ms is not None and not MIN_TIMESTAMP_MS <= time_ms < MAX_TIMESTAMP_MS:
        raise click.BadParameter(f"expected milliseconds since the epoch, of a time from 2000 to 2099, got {time_ms}")
    return time_ms


@click.command()
@click.option(
    "--source",
    type=click.Choice(("kuailive_m3", "kuailive", "chat_log")),
    default="kuailive_m3",
    show_default=True,
    help="Layout of the input, see docs/input.md.",
)
@click.option("--input", "folder", type=click.Path(path_type=Path), required=True, help="Folder with the events.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for Span-<N>.")
@click.option(
    "--span-hours", type=click.IntRange(1, _MOST_HOURS), default=1, show_default=True, help="Length of a span."
)
@click.option("--store", help="Online store to fill as of --as-of-ms: a folder or redis://host:port/db.")
@click.option(
    "--as-of-ms", type=int, callback=_time, help="Time of the store's features, milliseconds since the epoch."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def examples(
    source: str, folder: Path, out: Path, span_hours: int, store: str | None, as_of_ms: int | None, as_json: bool
) -> None:
    """Turns events into examples by span, and fills the online store.

    What an earlier run left in OUT is replaced when all is written; a run that fails leaves it. Rows that can't be
    read are kept in OUT/dead_letters.jsonl with file, line and reason.
    """
    from beam_transforms.impressions import ActiveUserImpressions
    from beam_transforms.pipeline import build_examples
    from beam_transforms.sources.open_source import open_source
    from beam_transforms.spans import SpanPlan, utc

    try:
        opened = open_source(source, folder)
        derived = ActiveUserImpressions(limit=500_000, seed=0) if source == "chat_log" else None
        plan = SpanPlan(span_hours * _HOUR_MS)
        summary = build_examples(opened, out, plan, impressions=derived, store=store, as_of_ms=as_of_ms)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(summary), "notes": opened.notes}))
        return
    for note in opened.notes:
        click.echo(f"note: {note}")
    click.echo(
        f"{summary.events:,} events, {summary.dead_letters:,} dead letters, {summary.impressions:,} impressions, "
        f"{summary.immature:,} of them without known labels yet"
    )
    for span in summary.spans:
        click.echo(f"Span-{span['span']} from {utc(span['begin_ms'])}: {span['train']:,} train, {span['eval']:,} eval")
    if summary.live_rooms is not None:
        click.echo(f"{store}: {summary.live_rooms:,} live rooms")


COMMANDS: list[click.Command] = [examples]
