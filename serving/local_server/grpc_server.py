"""GrpcServer: the gRPC interface, in a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc

from serving.local_server.grpc_api import GrpcApi
from serving.local_server.server_options import ServerOptions
from serving.local_server.tls_config import TlsConfig

_CALLS_PER_PLACE = 8
_LEAST_CALLS = 1024


class GrpcServer:
    """Serves a GrpcApi."""

    def __init__(self, options: ServerOptions, tls: TlsConfig | None, make_api: Callable[[], GrpcApi]) -> None:
        """Binds the port at once, answers from `start` on.

        Args:
            make_api: Called in the thread of the event loop.

        Raises:
            OSError: The address can't be bound.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)
        self._thread.start()
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            self._server, self._api, port = self._wait(self._bind(options, tls, f"{host}:{options.port}", make_api))
        except RuntimeError as error:
            self._end()
            tls_doubt = f" Or is the key or a certificate in {options.ssl_config} no valid PEM?" if tls else ""
            raise OSError(
                f"can't listen on {host}:{options.port} for gRPC; is another server using it?{tls_doubt} ({error})"
            ) from error
        except BaseException:
            self._end()
            raise
        self.address = f"{host}:{port}"
        """host:port."""

    def start(self) -> None:
        """Begins to answer."""
        self._wait(self._server.start())

    def stop(self, grace_s: float) -> None:
        """Takes no new calls, and gives those under way `grace_s` seconds."""
        self._wait(self._stop(grace_s))
        self._end()

    async def _bind(
        self, options: ServerOptions, tls: TlsConfig | None, address: str, make_api: Callable[[], GrpcApi]
    ) -> tuple[Any, GrpcApi, int]:
        api = make_api()
        # Calls beyond the queue's places are refused one by one, with a reason. This bound, far above, only keeps calls
        # whose messages are still on their way from filling the memory.
        most_calls = max(_LEAST_CALLS, _CALLS_PER_PLACE * (options.workers + options.waiting))
        server = grpc.aio.server(options=_channel_options(options), maximum_concurrent_rpcs=most_calls)
        server.add_generic_rpc_handlers([api])
        port = server.add_secure_port(address, tls.credentials()) if tls else server.add_insecure_port(address)
        return server, api, port

    async def _stop(self, grace_s: float) -> None:
        self._api.stop()
        await self._server.stop(grace_s)

    def _wait(self, coroutine: Coroutine[Any, Any, Any] | Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()  # type: ignore[arg-type]

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    keepalive_ms = int(options.keepalive_s * 1000)
    return [
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.so_reuseport", 0),  # else a second server on the port takes half of the requests
        # A client that vanished without a word is found out, also between calls.
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),  # clients may do the same, this often
        ("grpc.server_handshake_timeout_ms", int(options.request_s * 1000)),
    ]
