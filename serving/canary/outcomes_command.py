"""The command `foresight canary outcomes`."""

import json
from collections.abc import Mapping
from pathlib import Path

import click

_COUNTS = {
    "outcomes": "outcomes",
    "failed": "requests without an answer",
    "unserved": "impressions that no ranking led to",
    "waiting": "impressions whose label isn't known yet",
    "unshown": "rankings of which nothing was shown",
    "dead_letters": "lines that can't be read",
    "late_events": "events that came too late",
    "late_rankings": "rankings that came too late",
}


@click.command()
@click.option(
    "--served",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="File, or folder of *.jsonl, that CanaryClient's ServedLog writes; it is followed.",
)
@click.option(
    "--source",
    required=True,
    help="Live events: folder that is followed (see docs/input.md), or kafka://host:port/topic.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the outcomes, which `foresight canary decide --outcomes` reads, and for all that is needed to go "
    "on.",
)
@click.option(
    "--horizon-s",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds in which a click follows an impression: those of the labels that the versions learned from, 300 "
    "for the pipeline, 30 for `foresight stream`.",
)
@click.option(
    "--attribution-s",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds for which an impression of a ranking's room is the ranking's.",
)
@click.option(
    "--idle-s",
    type=click.FloatRange(0),
    help="End when there was no new event for so many seconds, 0 for a folder that is complete; else it goes on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a window.")
def outcomes(
    served: Path, source: str, out: Path, horizon_s: float, attribution_s: float, idle_s: float | None, as_json: bool
) -> None:
    """Joins served rankings with what users then did, as outcomes.

    Goes on where it stopped, however it was stopped; each outcome is written once. What can't be read or comes too late
    is kept in OUT/dead_letters, OUT/late and OUT/late_rankings.
    """
    from beam_transforms.outcome_stream import OutcomeStream
    from beam_transforms.sources.open_live_source import open_live_source

    try:
        events, clock = open_live_source(source, "foresight-canary")
        stream = OutcomeStream(events, served, out, horizon_s, attribution_s, clock=clock.event_now_s)
        for counts in stream.windows(idle_s):
            click.echo(json.dumps(dict(counts)) if as_json else _line(counts))
    except (OSError, RuntimeError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _line(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{counts.get(name, 0):,} {words}"
        for name, words in _COUNTS.items()
        if counts.get(name, 0) or name == "outcomes"
    )
