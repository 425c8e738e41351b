"""The console script `foresight`, which gathers the commands that each package defines, and `foresight.rank`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import beam_transforms.cli
import beam_transforms.examples_command
import beam_transforms.features_command
import benchmarks.cli
import keras_models.cli
import serving.cli
import tfx_pipeline.cli
import tfx_pipeline.road_commands

if TYPE_CHECKING:
    from serving.ranking import Ranking


def rank(
    user_id: int,
    live_ids: Sequence[int] | None = None,
    limit: int | None = None,
    *,
    store: str | Path = serving.cli.DEFAULT_STORE,
    address: str = serving.cli.DEFAULT_ADDRESS,
    model_name: str = serving.cli.DEFAULT_MODEL_NAME,
    version: int | None = None,
    label: str | None = None,
    deadline_s: float = 5.0,
    root_certificates: bytes | Path | None = None,
) -> "Ranking":
    """Ranks rooms for a user, once, as the command `foresight rank` does.

    It needs grpcio, protobuf, numpy, and lmdb or redis. The store and the connection are opened and closed again: a
    service keeps a `serving.client.RankingClient` instead.

    ```python
    import foresight

    for room in foresight.rank(17, limit=5).rooms:
        print(room.live_id, room.score)
    ```

    Args:
        user_id: The user.
        live_ids: The candidates; all rooms that are live now by default.
        limit: Keep at most this many of the best.
        store: Folder of the online store, or redis://host:port/db.
        address: "host:port" of the model server's gRPC interface.
        model_name: The name under which the server knows the model.
        version: A version to insist on, instead of a label.
        label: Of the version to ask; "stable" by default.
        deadline_s: Seconds within which the ranking succeeds or fails.
        root_certificates: PEM certificates of the server's authority, or their file, for TLS.

    Returns:
        Rooms, best first, and the version that scored them.

    Raises:
        ValueError: An argument is out of range, or there is no store at the location.
        OSError: The store or the file of certificates can't be read.
        serving.ranking_error.RankingError: There is no ranking; the message says why.
    """
    from serving.rank_rooms import rank_rooms

    return rank_rooms(
        user_id,
        live_ids,
        limit,
        store=store,
        address=address,
        model_name=model_name,
        version=version,
        label=label,
        deadline_s=deadline_s,
        root_certificates=root_certificates,
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="live-foresight", prog_name="foresight")
def main() -> None:
    """Ranks live-streaming rooms by what they are about to show."""


for _commands in (
    beam_transforms.cli.COMMANDS,
    beam_transforms.examples_command.COMMANDS,
    beam_transforms.features_command.COMMANDS,
    tfx_pipeline.cli.COMMANDS,
    tfx_pipeline.road_commands.COMMANDS,
    serving.cli.COMMANDS,
    keras_models.cli.COMMANDS,
    benchmarks.cli.COMMANDS,
):
    for _command in _commands:
        main.add_command(_command)


if __name__ == "__main__":
    main()
