"""Local servers with options of a test's own, within the test's process, and HTTP/2 by hand."""

import contextlib
import dataclasses
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.local_server.model_config import ModelConfig
from serving.local_server.model_server import ModelServer
from serving.local_server.server_options import ServerOptions


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, export_model: Callable[[float], Path]) -> Path:
    """Folder of the model `m`, version 1 (bias 0)."""
    folder = tmp_path_factory.mktemp("local")
    shutil.copytree(export_model(0.0), folder / "m" / "1")
    return folder


@pytest.fixture(scope="module")
def serve_local(model_dir: Path) -> Iterator[Callable[..., ModelServer]]:
    """Options by name -> a server of `m` with them, ended with the module."""
    with contextlib.ExitStack() as stack:

        def serve(**options: object) -> ModelServer:
            chosen = ServerOptions(**{"port": 0, "rest_port": 0, "poll_s": 0.05, "prepare_next": False, **options})
            server = ModelServer([ModelConfig("m", model_dir / "m")], chosen)
            server.start()
            stack.callback(server.stop, 0.2)
            return server

        yield serve


@pytest.fixture(scope="module")
def plain_server(serve_local: Callable[..., ModelServer]) -> ModelServer:
    """A server that gives nobody much time."""
    return serve_local(request_s=0.5, idle_s=0.5, rest_connections=4, max_message_bytes=2**20)


@dataclasses.dataclass
class RawCall:
    """A gRPC call written by hand, so that it can be left half done."""

    connection: socket.socket

    @classmethod
    def begin(cls, address: str, method: str) -> "RawCall":
        """Sends preface, settings and headers."""
        host, port = address.split(":")
        connection = socket.create_connection((host, int(port)), timeout=10)
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "x",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(
            b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in headers.items()
        )
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + cls._frame(4, 0, 0, b"") + cls._frame(1, 4, 1, block))
        return cls(connection)

    def send(self, content: bytes, *, end: bool = False) -> None:
        """A DATA frame."""
        self.connection.sendall(self._frame(0, int(end), 1, content))

    def trailers(self) -> bytes:
        """What the server sends until the call's end, as it stands; b"" if it closes the connection before."""
        received = b""
        while part := self.connection.recv(65536):
            received += part
            for kind, flags, stream, content in self._frames(received):
                if kind == 1 and flags & 1 and stream == 1:
                    return content
                if kind == 3 and stream == 1:
                    return b"reset"
        return b""

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content

    @staticmethod
    def _frames(received: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        while len(received) >= 9:
            length = int.from_bytes(received[:3], "big")
            if len(received) < 9 + length:
                return
            yield received[3], received[4], int.from_bytes(received[5:9], "big"), received[9 : 9 + length]
            received = received[9 + length :]


@pytest.fixture
def raw_call() -> Iterator[Callable[[str, str], RawCall]]:
    """(address, method) -> RawCall, closed with the test."""
    with contextlib.ExitStack() as stack:

        def begin(address: str, method: str) -> RawCall:
            call = RawCall.begin(address, method)
            stack.callback(call.connection.close)
            return call

        yield begin
