"""The command `foresight stream`."""

import json
from pathlib import Path
from typing import Any

import click

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option(
    "--source", required=True, help="Folder that is followed (see docs/input.md), or kafka://host:port/topic."
)
@click.option(
    "--examples",
    type=_DIRECTORY,
    required=True,
    help="Folder for examples, and for all that the loop has to know to go on.",
)
@click.option("--model-dir", type=_DIRECTORY, required=True, help="Folder that model servers watch.")
@click.option("--model-name", default="live_ranker", show_default=True)
@click.option(
    "--store", help="Online store: its folder, or redis://host:port/db. Without one no room's vector is stored."
)
@click.option("--address", help="host:port of a model server that runs; without one, a local server is started.")
@click.option(
    "--server-config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Configuration file of the server at --address, in which the label stable is moved.",
)
@click.option("--base", type=click.IntRange(1), help="Version that a new loop starts from; the newest by default.")
@click.option(
    "--schema",
    "schema_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="schema.json of the examples; that in EXAMPLES by default, else the live schema.",
)
@click.option("--codebook", type=_DIRECTORY, help="Codebook of the schema's semantic ids.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file; its keys are the fields of tfx_pipeline.near_real_time.config.StreamConfig.",
)
@click.option("--try-again", is_flag=True, help="Go on learning after the loop has stopped it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a window.")
def stream(
    source: str,
    examples: Path,
    model_dir: Path,
    model_name: str,
    store: str | None,
    address: str | None,
    server_config: Path | None,
    base: int | None,
    schema_file: Path | None,
    codebook: Path | None,
    config_file: Path | None,
    try_again: bool,
    as_json: bool,
) -> None:
    """Learns from live events window by window, and serves what it has learned within seconds.

    Goes on where it stopped, however it was stopped. Ends when the source has ended, or at Ctrl-C after the window that
    is under way. EXAMPLES/stream/stream.json says how it goes.
    """
    from tfx_pipeline.library_log import library_log
    from tfx_pipeline.near_real_time.config import StreamConfig, load_stream_config
    from tfx_pipeline.near_real_time.run import StreamPaths, run_stream

    def tell(record: dict[str, Any]) -> None:
        click.echo(json.dumps(record, allow_nan=False) if as_json else describe(record))

    paths = StreamPaths(
        source, examples, model_dir, model_name, store, address, server_config, base, schema_file, codebook
    )
    try:
        config = StreamConfig() if config_file is None else load_stream_config(config_file)
        with library_log(examples / "stream" / "log.txt"):
            stopped = run_stream(paths, config, tell, try_again)
    except (OSError, RuntimeError, ValueError) as error:
        raise click.ClickException("\n".join([str(error), *getattr(error, "__notes__", ())])) from error
    if stopped is not None:
        raise click.ClickException(f"{stopped}; look at the data, then go on with --try-again")


COMMANDS: list[click.Command] = [stream]


def describe(record: dict[str, Any]) -> str:
    """A record as people read it."""
    from beam_transforms.spans import utc

    lines = []
    if record["event"] == "window":
        counts = record["counts"]
        line = f"{utc(record['end_ms'])} {record['decision']:11} {record['examples']:5} examples"
        losses = record["losses"]
        if losses["train"] is not None:
            line += f", loss {losses['train']:.4f}"
        if record["metrics"]["trailing"]:
            task, figures = next(iter(record["metrics"]["trailing"].items()))
            line += f", {task} AUC {_figure(figures['auc'])} GAUC {_figure(figures['gauc'])}"
        if record["lag_s"] is not None:
            line += f", {record['lag_s']:.1f} s behind{' (too far)' if record['behind'] else ''}"
        if counts["windows_skipped"] or counts["windows_rolled_back"]:
            line += f", {counts['windows_skipped']} skipped, {counts['windows_rolled_back']} rolled back so far"
        lines.append(line)
        if record.get("unused"):
            unused = record["unused"]
            lines.append(
                f"  {unused['dead_letters']:,} dead letters, {unused['late']:,} late so far: they are kept in "
                "dead_letters and late, beside the examples"
            )
        if record["decision"] not in ("learned", "empty"):
            lines += [f"  {reason}" for reason in record["reasons"]]
    elif record["event"] == "server":
        lines.append(f"model server at {record['address']}")
    elif record["event"] == "start":
        lines.append(f"starting from {record['start']}")
    if record.get("adopted"):
        adopted = record["adopted"]
        lines.append(
            f"  version {adopted['version']} was published by another process and is gone on from; "
            f"{adopted['windows_dropped']} learned windows are dropped"
        )
    for served in record.get("served", ()):
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in served["seconds"].items())
        lines.append(f"  version {served['version']} answers ({stages} s)")
        for window in served["windows"]:
            lines.append(
                f"    {_seconds(window['close_to_answer_s'])} after the window closed, "
                f"{_seconds(window['event_to_served_s'])} after its newest event"
            )
    lines += [f"  {error}" for error in record.get("errors", ())]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
