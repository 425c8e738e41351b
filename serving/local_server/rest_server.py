"""RestServer: the REST interface over HTTP."""

import http.server
import ipaddress
import logging
import socket
from typing import Any

from serving.local_server.rest_api import RestApi, RestResponse, error_response

MAX_BODY_BYTES = 64 * 2**20
"""Largest body taken."""

_IDLE_S = 60.0
"""A connection on which nothing comes for so long is closed: each holds a thread."""

_log = logging.getLogger(__name__)


class RestServer(http.server.ThreadingHTTPServer):
    """Serves a RestApi, a thread for each connection."""

    daemon_threads = True

    def __init__(self, host: str, port: int, api: RestApi) -> None:
        """Binds at once; `port` 0 takes a free one, see `server_port`.

        Raises:
            OSError: The address can't be bound.
        """
        if ":" in host and ipaddress.ip_address(host).version == 6:
            self.address_family = socket.AF_INET6
        self.api = api
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.info("REST connection of %s broke off", client_address, exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    timeout = _IDLE_S
    # One segment for an answer, sent at once: otherwise head and body wait 40 ms for each other.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: RestServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def handle_expect_100(self) -> bool:
        proceed = super().handle_expect_100()
        self.wfile.flush()  # else curl waits a second before it sends a large body
        return proceed

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what isn't HTTP at all; as JSON, like every other error."""
        self.close_connection = True
        self._send(error_response(int(code), message or self.responses.get(code, ("error", ""))[0]))

    def _answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.send_error(411, "send the body with a Content-Length, not chunked")
        elif not (length.isascii() and length.isdigit()):
            self.send_error(400, f"Content-Length must be a number of bytes, got {length!r}")
        elif int(length[:20]) > MAX_BODY_BYTES:
            self.send_error(413, f"body of {length[:20]} bytes; at most {MAX_BODY_BYTES} are taken")
        else:
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.send_error(400, f"body of {len(body)} bytes, {length} were announced")
                return
            try:
                response = self.server.api.answer(self.command, self.path, body)
            except Exception:  # the connection must end with an answer; the reason is in the log
                _log.exception("%s %s failed", self.command, self.path)
                response = error_response(500, "internal error; the server's log has the reason")
            self._send(response)

    def _send(self, response: RestResponse) -> None:
        self.send_response_only(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response.body)
        self.wfile.flush()
