"""LocalRedis: a Redis server of one's own, for tests, benchmarks and trials."""

import shutil
import socket
import subprocess
import tempfile
import time
from types import TracebackType

HOW_TO_INSTALL = "no redis-server on the path; Debian and Ubuntu have it: `apt-get install redis-server`"
_START_S = 10.0


class LocalRedis:
    """Starts `redis-server` on a free port of the loopback interface and stops it at the end; nothing is kept on disk.

    Args:
        arguments: More arguments of `redis-server`.

    Attributes:
        url: `redis://127.0.0.1:<port>/0`.
        port: The port.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: str | None = None
        self.port = 0

    @staticmethod
    def installed() -> bool:
        """Whether there is a `redis-server` to start."""
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> "LocalRedis":
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError(HOW_TO_INSTALL)
        self._folder = tempfile.mkdtemp(prefix="redis-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": self._folder, "save": "", "appendonly": "no"}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([program, *words, *self._arguments], stdout=subprocess.DEVNULL)  # noqa: S603
        end = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.__exit__(None, None, None)
                raise RuntimeError(f"redis-server didn't start on port {self.port}")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(1)[:1] in (b"+", b"-")
        except OSError:
            return False
