"""Starts a model server, or finds one: the real TensorFlow Serving where there is one, else the local server."""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving.model_service_client import ModelServiceClient
from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError
from serving.serve_forever import READY_KEY

ADDRESS_VARIABLE = "TF_SERVING_ADDRESS"
REST_ADDRESS_VARIABLE = "TF_SERVING_REST_ADDRESS"
BINARY = "tensorflow_model_server"

_STOP_S = 15.0
_POLL_S = 0.05
_LOOK_S = 1.0

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes the server after asking the kernel for a SIGTERM when the parent ends (PR_SET_PDEATHSIG, which execve keeps).

Doing that between fork and exec instead would run Python in a copy of a process that has threads.
"""


@dataclasses.dataclass(frozen=True)
class RunningServer:
    """A model server that answers.

    Attributes:
        address: host:port of the gRPC interface.
        rest_address: host:port of the REST interface; None if it isn't known.
        kind: "external" (TF_SERVING_ADDRESS), "binary" (tensorflow_model_server) or "local".
        pid: Of the process that was started; None for an external server.
        process: That process.
    """

    address: str
    rest_address: str | None
    kind: str
    pid: int | None
    process: subprocess.Popen | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def has_ended(self) -> bool:
        """Whether the process that was started runs no more."""
        return self.process is not None and self.process.poll() is not None


def server_kind() -> str:
    """Which kind of server `launch` takes on this machine."""
    if os.environ.get(ADDRESS_VARIABLE):
        return "external"
    return "binary" if shutil.which(BINARY) else "local"


@contextlib.contextmanager
def launch(
    model_dir: Path,
    model_name: str,
    *,
    kind: str | None = None,
    timeout_s: float = 120.0,
    options: Sequence[str] = (),
) -> Iterator[RunningServer]:
    """A server of the versions in `model_dir`/`model_name`, for the length of a `with` block.

    If the variable TF_SERVING_ADDRESS (host:port) is set, the server there is told to serve this model and nothing
    else; it must see the folder under the same path. Else `tensorflow_model_server` is started if it is on the PATH,
    else the local server, on free ports. A started server ends when this process ends in whatever way; call `launch`
    from a thread that outlives the block, because the kernel takes that thread's end for the parent's.

    Args:
        kind: "external", "binary" or "local" instead of what `server_kind` finds.
        timeout_s: Seconds until a version of the model must be available.
        options: More of the command line of `foresight serve`; other kinds of server don't get them.

    Raises:
        RankingError: No version is available in time, or an external server can't be reached or refuses.
        RuntimeError: The server's process ended; the message has the end of what it printed.
    """
    kind = kind or server_kind()
    base_path = (Path(model_dir) / model_name).resolve()
    if kind == "external":
        address = os.environ[ADDRESS_VARIABLE]
        with ModelServiceClient(address) as client:
            config = api.ModelConfig(name=model_name, base_path=str(base_path), model_platform="tensorflow")
            client.reload([config], deadline_s=timeout_s)
            client.wait_for_version(model_name, None, timeout_s)
        yield RunningServer(address, os.environ.get(REST_ADDRESS_VARIABLE), kind, None)
        return
    with tempfile.TemporaryDirectory(prefix="foresight-server-") as folder:
        log = Path(folder) / "log"
        command, addresses = _command(kind, base_path, model_name)
        if kind == "local":
            command += options
        wrapped = [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
        with log.open("wb") as output:
            # In a session of its own: Ctrl-C in a terminal is for this process, which may still need the server.
            process = subprocess.Popen(  # noqa: S603 - the command is made here
                wrapped, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            address, rest_address = _wait_until_ready(process, log, addresses, model_name, timeout_s)
            yield RunningServer(address, rest_address, kind, process.pid, process)
        finally:
            _stop(process)


def wait_for_version(address: str, model_name: str, version: int | None, timeout_s: float) -> int:
    """Waits until `version` of a model (any version for None) is available at `address`, and returns its number.

    Raises:
        RankingError: That is not so after `timeout_s` seconds, or the version failed to load.
    """
    with ModelServiceClient(address) as client:
        return client.wait_for_version(model_name, version, timeout_s)


def _command(kind: str, base_path: Path, model_name: str) -> tuple[list[str], tuple[str, str] | None]:
    """The command line, and the addresses where they are known beforehand."""
    if kind == "local":
        module = [sys.executable, "-m", "serving.local_server"]
        return [*module, "--model-name", f"{model_name}={base_path}", "--port", "0", "--rest-port", "0"], None
    port, rest_port = _free_ports()
    command = [
        BINARY,
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        f"--model_name={model_name}",
        f"--model_base_path={base_path}",
        "--file_system_poll_wait_seconds=1",
        "--enable_grpc_healthcheck_service=true",
        f"--monitoring_config_file={Path(__file__).parent / 'config' / 'monitoring.config'}",
    ]
    return command, (f"127.0.0.1:{port}", f"127.0.0.1:{rest_port}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _wait_until_ready(
    process: subprocess.Popen, log: Path, addresses: tuple[str, str] | None, model_name: str, timeout_s: float
) -> tuple[str, str]:
    end = time.monotonic() + timeout_s
    while True:
        addresses = addresses or _announced(log)
        late = time.monotonic() >= end
        if process.poll() is not None or (late and addresses is None):
            state = "did not answer" if process.returncode is None else f"ended with status {process.returncode}"
            raise RuntimeError(f"the model server {state}; it printed:\n{log.read_text(errors='replace')[-2000:]}")
        if addresses is None:
            time.sleep(_POLL_S)
            continue
        try:
            wait_for_version(addresses[0], model_name, None, max(min(_LOOK_S, end - time.monotonic()), _POLL_S))
            return addresses
        except RankingError:
            if late:
                raise


def _announced(log: Path) -> tuple[str, str] | None:
    """The addresses that the local server prints when it answers."""
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{") and READY_KEY in line and line.endswith("}"):
            addresses = json.loads(line)
            return addresses[READY_KEY], addresses["rest_address"]
    return None


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
