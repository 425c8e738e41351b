"""The command `foresight replay`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from beam_transforms.sources.source import Source

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_HOURS = click.FloatRange(0, 876_600)  # a hundred years


@click.command()
@click.option(
    "--source",
    "name",
    type=click.Choice(("kuailive_m3", "kuailive", "chat_log")),
    default="kuailive_m3",
    show_default=True,
    help="Layout of the input, see docs/input.md; the simulator writes kuailive_m3.",
)
@click.option(
    "--input", "folder", type=click.Path(path_type=Path), required=True, help="Folder (or file) with the log."
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory that is followed."
)
@click.option(
    "--speed",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Seconds of event time in a second of the wall clock; 0 writes as fast as possible.",
)
@click.option(
    "--shift",
    is_flag=True,
    help="Move event times by a multiple of 30 s so that the first event happens now, at the next such moment. At "
    "--speed 1 event time then is the wall clock. At a higher speed only the first event happens now: event time runs "
    "ahead of the clock from there, so readers must accept times from the future; OUTPUT/replay.json tells the pace.",
)
@click.option(
    "--from",
    "from_hour",
    type=_HOURS,
    help="Leave out what is earlier: hours after midnight UTC of the log's first day. Rooms that opened before count "
    "from their first event on.",
)
@click.option("--until", "until_hour", type=_HOURS, help="Leave out what is at this hour or later.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def replay(
    name: str,
    folder: Path,
    output: Path,
    speed: float,
    shift: bool,
    from_hour: float | None,
    until_hour: float | None,
    as_json: bool,
) -> None:
    """Replays a log as a live source: lines of live events in a directory that `foresight stream` follows.

    Each second of the wall clock, one file with what happened in it appears, whole, in the order of event time. When
    it can't keep up it says so, and leaves nothing out. A file END ends it.
    """
    from beam_transforms.sources.open_source import open_source
    from beam_transforms.sources.replay import Replay

    if from_hour is not None and until_hour is not None and from_hour >= until_hour:
        raise click.UsageError(f"--from must be less than --until, got {from_hour:g} and {until_hour:g}")
    try:
        source = open_source(name, folder)
        midnight_ms = 0
        if from_hour is not None or until_hour is not None:
            midnight_ms = _first_ms(source) // _DAY_MS * _DAY_MS
        report = Replay(
            source,
            output,
            speed,
            shift,
            from_ms=None if from_hour is None else midnight_ms + round(from_hour * _HOUR_MS),
            until_ms=None if until_hour is None else midnight_ms + round(until_hour * _HOUR_MS),
            tell=lambda line: click.echo(line, err=True),
        ).run()
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"output": str(output), "speed": speed, **report.to_json()}))
        return
    rows = ", ".join(f"{count:,} {kind}" for kind, count in report.rows.items())
    click.echo(f"{output}: {rows} in {report.files:,} files, in {report.wall_seconds:.1f} s")
    if report.late_files:
        click.echo(f"{report.late_files:,} files were late, by {report.worst_lag_s:.1f} s at worst")


def _first_ms(source: "Source") -> int:
    """Time of the log's first event; 0 if it has none."""
    from beam_transforms.sources.source import DeadLetter

    return min(
        (
            int(item.column("timestamp_ms").to_numpy().min())
            for partition in source.partitions()
            for item in source.read(partition)
            if not isinstance(item, DeadLetter)
        ),
        default=0,
    )


COMMANDS: list[click.Command] = [replay]
