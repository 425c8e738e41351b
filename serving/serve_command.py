"""`foresight serve`: the local model server."""

from pathlib import Path
from typing import Any

import click

from serving.local_server.server_options import ServerOptions

_DEFAULTS = ServerOptions()
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_SECONDS = click.FloatRange(0, min_open=True)


@click.command()
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/demo/models"),
    show_default=True,
    help="Folder that holds a folder of versions for each model.",
)
@click.option(
    "--model-name",
    "model_names",
    multiple=True,
    default=("live_ranker",),
    show_default=True,
    metavar="NAME|NAME=PATH",
    help="Model to serve, from MODEL_DIR/NAME or from PATH; may be repeated.",
)
@click.option(
    "--model-config-file", type=_FILE, help="A ModelServerConfig as text, instead of --model-dir and --model-name."
)
@click.option(
    "--model-config-file-poll-wait-seconds",
    "config_poll_s",
    type=click.FloatRange(0),
    default=_DEFAULTS.config_poll_s,
    show_default=True,
    help="Time between two looks at --model-config-file, e.g. for labels that moved; 0 reads it once.",
)
@click.option(
    "--allow-version-labels-for-unavailable-models",
    "labels_before_versions",
    is_flag=True,
    help="A label that is new may name a version that isn't loaded yet.",
)
@click.option("--host", default=_DEFAULTS.host, show_default=True, help="Where to listen; there is no access control.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=_DEFAULTS.port, show_default=True, help="gRPC; 0 takes a free one."
)
@click.option(
    "--rest-port",
    type=click.IntRange(0, 65535),
    default=_DEFAULTS.rest_port,
    show_default=True,
    help="REST; 0 takes a free one.",
)
@click.option("--no-rest", is_flag=True, help="No REST interface, which has no TLS.")
@click.option(
    "--poll-seconds",
    "poll_s",
    type=_SECONDS,
    default=_DEFAULTS.poll_s,
    show_default=True,
    help="Time between two looks for new versions.",
)
@click.option(
    "--prepare-next/--no-prepare-next",
    default=_DEFAULTS.prepare_next,
    show_default=True,
    help="Keep a session ready for the next version with the same graph: fast swaps, for the memory of one version.",
)
@click.option(
    "--max-active-requests", "active", type=click.IntRange(1), help="Computed at a time.  [default: 2 a core]"
)
@click.option(
    "--max-waiting-requests",
    "waiting",
    type=click.IntRange(0),
    default=_DEFAULTS.waiting,
    show_default=True,
    help="Waiting for their turn; more are refused with RESOURCE_EXHAUSTED, 429.",
)
@click.option(
    "--max-message-bytes",
    type=click.IntRange(1024),
    default=_DEFAULTS.max_message_bytes,
    show_default=True,
    help="Largest request and answer.",
)
@click.option(
    "--request-seconds",
    "request_s",
    type=_SECONDS,
    default=_DEFAULTS.request_s,
    show_default=True,
    help="For a request to arrive; and for a REST request to be answered, then to be read.",
)
@click.option(
    "--idle-seconds",
    "idle_s",
    type=_SECONDS,
    default=_DEFAULTS.idle_s,
    show_default=True,
    help="After which a REST connection without a request is closed.",
)
@click.option(
    "--max-rest-connections",
    "rest_connections",
    type=click.IntRange(1),
    default=_DEFAULTS.rest_connections,
    show_default=True,
    help="Open at a time; more are refused with 503.",
)
@click.option(
    "--keepalive-seconds",
    "keepalive_s",
    type=_SECONDS,
    default=_DEFAULTS.keepalive_s,
    show_default=True,
    help="Without a sign of life, after which a gRPC client is asked for one.",
)
@click.option(
    "--enable-serialization-as-tensor-content",
    "tensor_content",
    is_flag=True,
    help="Answer with tensor_content instead of repeated values.",
)
@click.option("--ssl-config-file", "ssl_config", type=_FILE, help="An SSLConfig as text, for gRPC.")
@click.option("--enable-batching", "batching", is_flag=True, help="Compute requests together.")
@click.option("--batching-parameters-file", "batching_parameters", type=_FILE, help="BatchingParameters as text.")
@click.option(
    "--tensorflow-intra-op-parallelism",
    "intra_op_threads",
    type=click.IntRange(0),
    default=_DEFAULTS.intra_op_threads,
    show_default=True,
    help="Threads of one operation; 0: TensorFlow decides.",
)
@click.option(
    "--tensorflow-inter-op-parallelism",
    "inter_op_threads",
    type=click.IntRange(-1),
    default=_DEFAULTS.inter_op_threads,
    show_default=True,
    help="Operations at the same time; 0: TensorFlow decides, -1: each request in its own thread.",
)
def serve(
    model_dir: Path,
    model_names: tuple[str, ...],
    model_config_file: Path | None,
    no_rest: bool,
    rest_port: int,
    **options: Any,
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
        settings = ServerOptions(rest_port=None if no_rest else rest_port, **options)
        serve_forever(models, config_file=model_config_file, options=settings)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
