"""A Java program in a process of its own, on the jars that `make test-flink` fetches."""

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

JARS = Path(__file__).parents[2] / "build" / "flink"
"""Where tools/flink/pom.xml puts the jars: one folder for each module."""

_OPENED = ("java.lang", "java.lang.invoke", "java.io", "java.net", "java.nio", "java.text", "java.time", "java.util")
_OPENS = [
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
]
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
_STOP_S = 10.0
_POLL_S = 0.1


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_until(happened: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Asks again and again; raises a TimeoutError that says `what` didn't happen."""
    end = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def answers(port: int) -> bool:
    """Whether something listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def spawn(
    command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a program in `folder` that prints to `log`, and is killed when this process ends in whatever way."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )


@functools.cache
def require_java(jars: str) -> None:
    """Raises a RuntimeError that says what is missing: Java 17 or newer, or the jars of `make test-flink`."""
    if shutil.which("java") is None:
        raise RuntimeError("java is not on the PATH; Flink, Beam's job server and Kafka need Java 17 or newer")
    printed = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True, timeout=60).stderr
    version = re.search(r'version "(\d+)', printed)
    if version is None or int(version[1]) < 17:
        raise RuntimeError(f"Java 17 or newer is needed; java -version prints {printed.splitlines()[:1]}")
    if not any((JARS / jars).glob("*.jar")):
        raise RuntimeError(f"no jars in {JARS / jars}; run `make test-flink`, which fetches them with mvn")


class JavaProcess:
    """Starts a program; it ends with `stop` or `kill`, and at the latest when this process ends.

    Args:
        name: Of the log file.
        jars: Name of the folder with jars: "cluster" or "broker".
        command: Main class and arguments.
        folder: Where the log `<name>.log` is written; also the working directory.
        memory_mb: The greatest size of the heap.
        properties: More options of the Java machine.
    """

    def __init__(
        self, name: str, jars: str, command: Sequence[str], folder: Path, memory_mb: int, properties: Sequence[str] = ()
    ) -> None:
        require_java(jars)
        self.log = folder / f"{name}.log"
        options = [f"-Xmx{memory_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_OPENS, *properties]
        program = ["java", *options, "-cp", f"{JARS / jars}/*", *command]
        self._process = spawn(program, self.log, folder)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Waits until `ready()`.

        Raises:
            RuntimeError: The program ended before that; with the end of its log.
            TimeoutError: It isn't ready in time.
        """

        def happened() -> bool:
            if self._process.poll() is not None:
                printed = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.log.stem} ended with {self._process.returncode}; it printed:\n{printed}")
            return ready()

        wait_until(happened, f"{self.log.stem} is ready, see {self.log}", timeout_s)

    def kill(self) -> None:
        """Ends the program at once: SIGKILL, no shutdown hooks."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Asks the program to end, and kills it if it doesn't."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
