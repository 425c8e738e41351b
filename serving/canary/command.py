"""The commands `foresight canary start`, `status` and `decide`; `outcomes` has a file of its own."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.canary import outcomes_command

if TYPE_CHECKING:
    from serving.canary.canary import Canary
    from serving.canary.labels import CanaryLabels

_STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("build/demo/canary.json"),
    show_default=True,
    help="File that all that is known of the canary stands in.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_SERVER = (
    click.option("--address", default="127.0.0.1:8500", show_default=True, help="host:port of the server's gRPC."),
    click.option("--model-name", default="live_ranker", show_default=True, help="Name of the model on the server."),
    click.option(
        "--store",
        metavar="LOCATION",
        default="build/demo/online_store",
        show_default=True,
        help="Online store whose labels are moved: its folder, or redis://host:port/db.",
    ),
    click.option(
        "--models-config",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="The server's --model_config_file: labels are moved in it, too. Without it the server's labels stay.",
    ),
    click.option(
        "--root-certificates",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="PEM file of the authority that vouches for the server: speak TLS.",
    ),
)


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SERVER):
        command = option(command)
    return command


@click.group()
def canary() -> None:
    """Tries a new version on a share of users, and promotes it or rolls it back by rule."""


canary.add_command(outcomes_command.outcomes)


@canary.command()
@click.option("--version", type=click.IntRange(0), required=True, help="The version to try; the server has it.")
@click.option("--salt", help="Name of the experiment, which decides whose side is whose; version-N by default.")
@click.option("--share", type=float, default=0.05, show_default=True, help="Part of the users that get it.")
@click.option("--min-impressions", type=int, default=10_000, show_default=True, help="Of each side, to be decided.")
@click.option(
    "--max-calibration-error",
    type=float,
    default=0.1,
    show_default=True,
    help="How far predicted / observed clicks may be from 1.",
)
@click.option(
    "--max-ctr-loss", type=float, default=0.02, show_default=True, help="Relative loss that must be ruled out."
)
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Bound of the rate of wrong decisions.")
@click.option(
    "--deadline-hours", type=float, default=24.0, show_default=True, help="Undecided until then, it is rolled back."
)
@_server_options
@_STATE
@_JSON
def start(
    version: int,
    salt: str | None,
    share: float,
    min_impressions: int,
    max_calibration_error: float,
    max_ctr_loss: float,
    alpha: float,
    deadline_hours: float,
    address: str,
    model_name: str,
    store: str,
    models_config: Path | None,
    root_certificates: Path | None,
    state: Path,
    as_json: bool,
) -> None:
    """Gives a version the label "canary", with its foresight vectors, and begins to compare."""
    from serving.canary.canary import Canary
    from serving.canary.config import CanaryConfig

    with _errors():
        config = CanaryConfig(
            salt or f"version-{version}",
            share,
            min_impressions,
            max_calibration_error,
            max_ctr_loss,
            alpha,
            deadline_hours * 3600,
        )
        with _labels(address, model_name, store, models_config, root_certificates) as labels:
            trial = Canary.start(state, version, config, labels)
    _print_status(trial.status(), as_json)


@canary.command()
@_STATE
@_JSON
def status(state: Path, as_json: bool) -> None:
    """Tells how the canary stands: each side's CTR, calibration, log loss and AUC, and the comparison."""
    from serving.canary.canary import Canary

    with _errors():
        trial = Canary(state)
    _print_status(trial.status(), as_json)


@canary.command()
@click.option(
    "--outcomes",
    type=click.Path(path_type=Path),
    help="File, or folder of *.jsonl, with a line for each impression whose label is known: "
    '{"experiment": SALT, "user_id": 17, "version": 8, "fell_back": false, "score": 0.13, "label": 1}, its score being '
    'scores["ctr"]. What was read before isn\'t read again.',
)
@click.option("--apply", "is_applied", is_flag=True, help="Do what is decided: move the labels.")
@click.option(
    "--every", "every_s", type=click.FloatRange(0, min_open=True), help="Seconds to decide again after, until the end."
)
@_server_options
@_STATE
@_JSON
def decide(
    outcomes: Path | None,
    is_applied: bool,
    every_s: float | None,
    address: str,
    model_name: str,
    store: str,
    models_config: Path | None,
    root_certificates: Path | None,
    state: Path,
    as_json: bool,
) -> None:
    """Reads new outcomes and decides by rule: promote, roll back, or go on.

    While some can't be read it decides by the others, and promotes nothing; without --every it ends with status 1 then.
    """
    from serving.canary.canary import Canary

    def decide_once(trial: "Canary") -> bool:
        """Whether that was the end."""
        lines = 0 if outcomes is None else trial.read(outcomes)
        if trial.unread is not None and not as_json:
            click.echo(f"failed: {trial.unread}; deciding by what was read", err=True)
        decision = trial.decide(_served(store))
        if is_applied and decision.action != "go_on":
            with _labels(address, model_name, store, models_config, root_certificates) as labels:
                trial.act(decision, labels)
        if as_json:
            told = dataclasses.asdict(decision) | {"lines": lines, "phase": trial.state.phase}
            click.echo(json.dumps(told if trial.unread is None else told | {"read_error": trial.unread}))
        else:
            click.echo(f"{decision.action.replace('_', ' ')}: {'; '.join(decision.reasons)}")
        return decision.action != "go_on" or trial.state.phase != "running"

    with _errors():
        trial = Canary(state)
    while True:
        try:
            with _errors():
                if decide_once(trial) or every_s is None:
                    break
        except click.ClickException as error:
            if every_s is None:
                raise
            click.echo(f"failed: {error.message}; trying again", err=True)
        time.sleep(every_s)
    if every_s is None and trial.unread is not None:
        raise click.exceptions.Exit(1)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    from serving.ranking_error import RankingError

    try:
        yield
    except (RankingError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _served(store: str) -> Mapping[str, int]:
    from beam_transforms.online_store import open_online_store

    with open_online_store(store) as features:
        return features.served.labels


@contextlib.contextmanager
def _labels(
    address: str, model_name: str, store: str, models_config: Path | None, root_certificates: Path | None
) -> Iterator["CanaryLabels"]:
    from beam_transforms.online_store import open_online_store
    from serving.canary.labels import CanaryLabels
    from serving.model_service_client import ModelServiceClient
    from serving.room_side import RoomSide

    open_online_store(store).close()  # for writing, a wrong path would be made a new store
    with (
        open_online_store(store, readonly=False) as features,
        RoomSide(
            features, address, model_name, model_config=models_config, root_certificates=root_certificates
        ) as room_side,
        ModelServiceClient(address, root_certificates) as service,
    ):
        yield CanaryLabels(room_side, features, service, models_config, model_name)


def _print_status(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status))
        return
    click.echo(f"version {status['version']}: {status['phase']}, {status['share']:.1%} of users")
    for reason in status["reasons"]:
        click.echo(f"  {reason}")
    columns = ("impressions", "ctr", "calibration", "log_loss", "auc")
    click.echo("".join(f"{title:>13}" for title in ("side", *columns)))
    for side, figures in status["sides"].items():
        cells = (figures[column] for column in columns)
        texts = ("-" if cell is None else f"{cell:,}" if isinstance(cell, int) else f"{cell:.4f}" for cell in cells)
        click.echo("".join(f"{text:>13}" for text in (side, *texts)))
    if status["refused"]:
        click.echo(f"lines that could not be used: {status['refused']}; the last: {status['refusal']}")
