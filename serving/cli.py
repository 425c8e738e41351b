"""Commands of the serving side: `foresight serve` and `foresight rank`."""

import json
import sys
from pathlib import Path

import click

DEFAULT_ADDRESS = "127.0.0.1:8500"
DEFAULT_MODEL_NAME = "live_ranker"
DEFAULT_MODEL_DIR = Path("build/demo/models")
DEFAULT_STORE = Path("build/demo/online_store")

_DEADLINE_S = 5.0


@click.command()
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_MODEL_DIR,
    show_default=True,
    help="Folder that holds a folder of versions for each model.",
)
@click.option(
    "--model-name",
    "model_names",
    multiple=True,
    default=(DEFAULT_MODEL_NAME,),
    show_default=True,
    metavar="NAME|NAME=PATH",
    help="Model to serve, from MODEL_DIR/NAME or from PATH; may be repeated.",
)
@click.option(
    "--model-config-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A ModelServerConfig as text, instead of --model-dir and --model-name.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; there is no access control."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8500, show_default=True, help="gRPC; 0 takes a free one."
)
@click.option(
    "--rest-port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="REST; 0 takes a free one."
)
@click.option(
    "--poll-seconds",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Time between two looks for new versions.",
)
def serve(
    model_dir: Path,
    model_names: tuple[str, ...],
    model_config_file: Path | None,
    host: str,
    port: int,
    rest_port: int,
    poll_seconds: float,
) -> None:
    """Serves models over TensorFlow Serving's API (gRPC and REST) until it is interrupted.

    Prints one line of JSON with its addresses as soon as it answers.
    """
    from serving.serve_forever import serve_forever

    models = {}
    for entry in model_names:
        name, _, path = entry.partition("=")
        if not name or name in models:
            raise click.BadParameter(f"model names must be distinct and not empty, got {list(model_names)}")
        models[name] = Path(path) if path else model_dir / name
    try:
        serve_forever(
            models, config_file=model_config_file, host=host, port=port, rest_port=rest_port, poll_s=poll_seconds
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def rank(user: int, limit: int, address: str, model_name: str, store: str, as_json: bool) -> None:
    """Ranks the rooms that are live now for a user."""
    from beam_transforms.online_store import open_online_store
    from serving.client import RankingClient
    from serving.ranking_error import RankingError

    try:
        with (
            open_online_store(store) as features,
            RankingClient(address, model_name, features, deadline_s=_DEADLINE_S) as client,
        ):
            ranking = client.rank(user, limit=limit)
    except (RankingError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        rooms = [{"live_id": room.live_id, "scores": room.scores, "score": room.score} for room in ranking.rooms]
        click.echo(json.dumps({"version": ranking.version, "user_id": user, "rooms": rooms}))
        return
    from rich.console import Console

    from serving.ranking_table import ranking_table

    Console(file=sys.stdout).print(ranking_table(ranking))


COMMANDS: list[click.Command] = [serve, rank]
