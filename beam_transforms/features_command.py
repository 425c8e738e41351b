"""The command `foresight features`."""

import json
from datetime import UTC, datetime
from typing import Any

import click

_WINDOWS = 8
_ID = click.IntRange(0, 2**63 - 1)


@click.command()
@click.option("--store", "location", required=True, help="Folder of the online store, or redis://host:port/db.")
@click.option("--live-id", type=_ID, help="Room to look at.")
@click.option("--user-id", type=_ID, help="User to look at; with --live-id also what is known of the two together.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def features(location: str, live_id: int | None, user_id: int | None, as_json: bool) -> None:
    """Shows what the online store holds of a room, a user, or both."""
    from beam_transforms.online_store import open_online_store

    if live_id is None and user_id is None:
        raise click.UsageError("give --live-id, --user-id or both")
    try:
        with open_online_store(location) as store:
            found = store.describe(live_id, user_id)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(_plain(found)))
        return
    click.echo(f"{found['live_rooms']:,} live rooms; features as of {_utc(found['as_of_ms'])}")
    if found["live"] is False:
        click.echo(f"room {live_id} isn't live")
    for record in found["records"]:
        _show(record, found)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """`OnlineStore.describe` as JSON types; histories and statistics with the names of their entries."""
    metrics = found["schema"].metric_names
    records = []
    for record in found["records"]:
        plain: dict[str, Any] = {}
        for name, value in record["features"].items():
            entries = record["entries"].get(name)
            plain[name] = dict(zip(entries, value.tolist(), strict=True)) if entries else value.tolist()
        records.append({"key": record["key"], "written_ms": record["written_ms"], "features": plain})
    return {
        "as_of_ms": found["as_of_ms"],
        "as_of": _utc(found["as_of_ms"]),
        "schema": found["schema"].name,
        "metrics": list(metrics),
        "live_rooms": found["live_rooms"],
        "live": found["live"],
        "records": records,
    }


def _show(record: dict[str, Any], found: dict[str, Any]) -> None:
    title = ", ".join(f"{name} {value}" for name, value in record["key"].items())
    if not record["features"]:
        click.echo(f"\n{title}: nothing stored")
        return
    click.echo(f"\n{title}, written as of {_utc(record['written_ms'])}")
    for name, value in record["features"].items():
        entries = record["entries"].get(name)
        if name == "statistic_sequence":
            _show_windows(value, record["features"].get("statistic_mask"), found["schema"].metric_names)
        elif name == "statistic_mask":
            continue
        elif entries:
            click.echo(f"  {name}")
            for entry, number in zip(entries, value.tolist(), strict=True):
                click.echo(f"    {entry:<28}{number:>14,.6g}")
        elif name == "opened_ms":
            click.echo(f"  {name:<30}{int(value)} ({_utc(int(value))})")
        else:
            click.echo(f"  {name:<30}{value.tolist()}")


def _show_windows(sequence: Any, mask: Any, metrics: tuple[str, ...]) -> None:
    """The metrics of the newest windows, one row a metric, the newest window on the right."""
    known = len(sequence) if mask is None else int(mask.sum())
    rows = sequence[len(sequence) - min(known, _WINDOWS) :]
    click.echo(f"  statistic_sequence: {known} windows, the last {len(rows)}")
    for column, metric in enumerate(metrics):
        click.echo(f"    {metric:<20}" + "".join(f"{number:>10,.5g}" for number in rows[:, column].tolist()))


def _utc(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError):
        return f"{time_ms} ms"


COMMANDS: list[click.Command] = [features]
