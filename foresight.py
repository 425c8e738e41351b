"""The console script `foresight`, which gathers the commands that each package defines, and `foresight.rank`."""

import click

import beam_transforms.cli
import beam_transforms.examples_command
import beam_transforms.features_command
import benchmarks.cli
import keras_models.cli
import serving.cli
import tfx_pipeline.cli
import tfx_pipeline.road_commands
from serving.rank_rooms import rank_rooms as rank

__all__ = ["main", "rank"]


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
