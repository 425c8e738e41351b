"""The command `foresight rooms`."""

import dataclasses
import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from serving.room_side_report import RoomSideReport

_LOOK_S = 0.2
_MOST_S = 10.0


def follow_rooms(
    address: str,
    model_name: str,
    store: str,
    models_config: Path | None,
    label: str | None,
    once: bool,
    as_json: bool,
    root_certificates: Path | None = None,
) -> None:
    """Promotes and refreshes until SIGTERM or SIGINT, or once; prints a line for each. Without a label it refreshes.

    What goes wrong on the way is printed once and tried again, each time after twice as long, up to 10 s; with `once`
    it is raised.

    Raises:
        ValueError: The store isn't there, or the configuration can't be used.
        OSError: The store can't be reached, or the configuration can't be read.
        RankingError: With `once`: the server can't be reached, has no version of the model, or refuses.
    """
    from beam_transforms.online_store import open_online_store
    from serving.model_service_client import ModelServiceClient
    from serving.ranking_error import RankingError
    from serving.room_follower import RoomFollower
    from serving.room_side import RoomSide

    ended = threading.Event()
    if not once:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    open_online_store(store).close()  # for writing, a wrong path would be made a new store
    with (
        open_online_store(store, readonly=False) as features,
        RoomSide(
            features, address, model_name, model_config=models_config, root_certificates=root_certificates
        ) as room_side,
        ModelServiceClient(address, root_certificates) as service,
    ):
        follower = RoomFollower(room_side, service, features, model_name, label)
        said, wait_s = "", _LOOK_S
        while not ended.is_set():
            try:
                report = follower.step()
                said, wait_s = "" if report else said, _LOOK_S
            except (RankingError, OSError, ValueError) as error:
                if once:
                    raise
                if str(error) != said:
                    _print({"event": "error", "message": str(error)}, f"failed: {error}; trying again", as_json)
                said, report = str(error), None
                ended.wait(wait_s)
                wait_s = min(2 * wait_s, _MOST_S)
                continue
            if report is not None:
                _print(dataclasses.asdict(report), _line(report), as_json)
            if once:
                if report is None:
                    raise RankingError("NOT_FOUND", f"no version of model {model_name!r} is available at {address}")
                return
            if report is None:
                ended.wait(_LOOK_S)


@click.command()
@click.option("--address", default="127.0.0.1:8500", show_default=True, help="host:port of the model server's gRPC.")
@click.option("--model-name", default="live_ranker", show_default=True, help="Name of the model on the server.")
@click.option(
    "--store",
    metavar="LOCATION",
    default="build/demo/online_store",
    show_default=True,
    help="Online store to keep vectors in: its folder, or redis://host:port/db.",
)
@click.option(
    "--models-config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The server's --model_config_file: the label is moved in it, too. Without it the server's labels stay.",
)
@click.option("--label", default="stable", show_default=True, help="Label that follows the newest version.")
@click.option(
    "--refresh-only",
    is_flag=True,
    help="Promote nothing: keep up the vectors of all labelled versions, as is needed while a canary is on trial.",
)
@click.option("--once", is_flag=True, help="Promote the newest version, compute all live rooms, and end.")
@click.option(
    "--root-certificates",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM file of the authority that vouches for the server: speak TLS.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def rooms(
    address: str,
    model_name: str,
    store: str,
    models_config: Path | None,
    label: str,
    refresh_only: bool,
    once: bool,
    root_certificates: Path | None,
    as_json: bool,
) -> None:
    """Computes the room side of the ranker: foresight vectors of all live rooms, once a window.

    Follows the model server and the online store until it is interrupted: a new version is promoted as soon as the
    vectors of all live rooms are stored under it; after each window, those that changed are computed again.
    """
    from serving.ranking_error import RankingError

    try:
        followed = None if refresh_only else label
        follow_rooms(address, model_name, store, models_config, followed, once, as_json, root_certificates)
    except (RankingError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _line(report: RoomSideReport) -> str:
    versions = ", ".join(map(str, report.versions)) or "none"
    what = f"promoted {versions} as {report.label}" if report.event == "promote" else f"refreshed {versions}"
    skipped = f", skipped {', '.join(map(str, report.skipped))}" if report.skipped else ""
    return (
        f"{what}{skipped}: {report.rooms} rooms as of {report.as_of_ms}, read {report.read_s:.2f} s, "
        f"forecast {report.forecast_s:.2f} s, written {report.write_s:.2f} s"
    )


def _print(values: dict[str, Any], line: str, as_json: bool) -> None:
    click.echo(json.dumps(values) if as_json else line)
    sys.stdout.flush()
