"""The console script `foresight`: gathers the commands that each package defines."""

import click

import keras_models.cli


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="live-foresight", prog_name="foresight")
def main() -> None:
    """Ranks live-streaming rooms by what they are about to show."""


for _package in (keras_models.cli,):
    for _command in _package.COMMANDS:
        main.add_command(_command)


if __name__ == "__main__":
    main()
