"""Commands of the serving side: `foresight serve`, `rank`, `rooms` and `canary`."""

import dataclasses
import json
import sys
from pathlib import Path

import click

from serving.canary.command import canary
from serving.rank_rooms import DEFAULT_ADDRESS, DEFAULT_MODEL_NAME, DEFAULT_STORE, rank_rooms
from serving.rooms_command import rooms
from serving.serve_command import serve


@click.command()
@click.option("--user", type=int, required=True, help="Id of the user to rank rooms for.")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="Rooms to show.")
@click.option("--address", default=DEFAULT_ADDRESS, show_default=True, help="host:port of the model server's gRPC.")
@click.option("--model-name", default=DEFAULT_MODEL_NAME, show_default=True, help="Name of the model on the server.")
@click.option(
    "--store",
    metavar="LOCATION",
    default=str(DEFAULT_STORE),
    show_default=True,
    help="Online store that features are read from: its folder, or redis://host:port/db.",
)
@click.option("--version", type=click.IntRange(0), help="Model version to insist on, instead of a label.")
@click.option("--label", help='Label of the version to ask, e.g. "canary"; "stable" by default.')
@click.option(
    "--root-certificates",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM file of the authority that vouches for the server: speak TLS.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def rank(
    user: int,
    limit: int,
    address: str,
    model_name: str,
    store: str,
    version: int | None,
    label: str | None,
    root_certificates: Path | None,
    as_json: bool,
) -> None:
    """Ranks the rooms that are live now for a user."""
    from serving.ranking_error import RankingError

    if version is not None and label is not None:
        raise click.UsageError(f"give --version or --label, not both: got {version} and {label!r}")
    try:
        ranking = rank_rooms(
            user,
            limit=limit,
            store=store,
            address=address,
            model_name=model_name,
            version=version,
            label=label,
            root_certificates=root_certificates,
        )
    except (RankingError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(ranking)))
        return
    from rich.console import Console

    from serving.ranking_table import ranking_table

    Console(file=sys.stdout).print(ranking_table(ranking))


COMMANDS: list[click.Command] = [serve, rank, rooms, canary]
