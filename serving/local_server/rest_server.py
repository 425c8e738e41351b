"""RestServer: the REST interface over HTTP."""

import email.errors
import http.server
import io
import ipaddress
import logging
import socket
import threading
import time
from typing import Any

from serving.local_server.rest_api import RestApi, RestResponse, error_response
from serving.local_server.server_options import ServerOptions

_log = logging.getLogger(__name__)

_NO_HEADER = (
    email.errors.FirstHeaderLineIsContinuationDefect,
    email.errors.InvalidHeaderDefect,
    email.errors.MissingHeaderBodySeparatorDefect,
)
"""Lines at which reading the headers ends, or that are left out: where the body ends would be a guess."""


class RestServer(http.server.ThreadingHTTPServer):
    """Serves a RestApi, a thread for each connection.

    The connections are bounded in number and each in time: one without a request is closed after `idle_s`, and a
    request has `request_s` from its first byte to its last, however slowly its bytes come, and as long for its answer
    to be read.
    """

    daemon_threads = True

    def __init__(self, options: ServerOptions, api: RestApi) -> None:
        """Binds `options.rest_port` at once; 0 takes a free one, see `server_port`.

        Raises:
            OSError: The address can't be bound.
        """
        if ":" in options.host and ipaddress.ip_address(options.host).version == 6:
            self.address_family = socket.AF_INET6
        self.api = api
        self.options = options
        self._places = threading.BoundedSemaphore(options.rest_connections)
        super().__init__((options.host, options.rest_port or 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hands a connection to a thread of its own, if there is a place left."""
        if self._places.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except BaseException:  # no thread was started that would give the place back
                self._places.release()
                raise
            return
        response = error_response(503, f"{self.options.rest_connections} connections are open, no more are taken")
        request.settimeout(0.0)  # nobody waits for a client here; its kernel takes so little at once
        try:
            request.sendall(_message(response, close=True))
        except OSError as error:
            _log.debug("Could not refuse %s: %s", client_address, error)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.info("REST connection of %s broke off", client_address, exc_info=True)


class _Incoming(io.RawIOBase):
    """What comes on a socket until a time that may be moved."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("too slow")
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    disable_nagle_algorithm = True  # else an answer's head and body wait 40 ms for each other
    server: RestServer

    def setup(self) -> None:
        super().setup()
        self._incoming = _Incoming(self.connection)
        self.rfile.close()
        self.rfile = self._reader = io.BufferedReader(self._incoming, 65536)

    def handle_one_request(self) -> None:
        self.command, self.request_version, self.requestline = "", self.protocol_version, ""
        begun = False
        try:
            self._incoming.until = time.monotonic() + self.server.options.idle_s
            begun = bool(self._reader.peek(1))
            self._incoming.until = time.monotonic() + self.server.options.request_s
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline:
                self.close_connection = True
            elif len(self.raw_requestline) > 65536:
                self.send_error(414, "the request's first line has more than 65536 bytes")
            elif self.parse_request():
                self._route()
        except TimeoutError:
            self.close_connection = True
            if begun:
                self.send_error(408, f"the request did not arrive within {self.server.options.request_s:g} s")

    def handle_expect_100(self) -> bool:
        self._send_bytes(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what can't be answered otherwise; as JSON, like every other error."""
        self.close_connection = True
        self._send(error_response(int(code), message or self.responses.get(code, ("error", ""))[0]))

    def _route(self) -> None:
        if self.command in ("GET", "POST", "PUT", "DELETE"):
            self._answer()
        else:
            self.send_error(501, f"Unsupported method ({self.command!r})")

    def _answer(self) -> None:
        lengths = self.headers.get_all("Content-Length", ["0"])
        length = lengths[0]
        digits = length.lstrip("0") or "0"  # zeros before it must not hide how large the number is
        most = self.server.options.max_message_bytes
        if any(isinstance(defect, _NO_HEADER) for defect in self.headers.defects):
            self.send_error(400, "each line of the headers must be 'name: value', without a space before the colon")
        elif len(lengths) > 1:
            self.send_error(400, f"give Content-Length once, got {len(lengths)} of them")
        elif "Transfer-Encoding" in self.headers:
            self.send_error(411, "send the body with a Content-Length, not chunked")
        elif not (length.isascii() and length.isdigit()):
            self.send_error(400, f"Content-Length must be a number of bytes, got {length!r}")
        elif len(digits) > 19 or int(digits) > most:
            self.send_error(413, f"body of {digits[:20]} bytes; at most {most} are taken")
        else:
            body = self.rfile.read(int(digits))
            if len(body) < int(digits):
                self.send_error(400, f"body of {len(body)} bytes, {digits} were announced")
                return
            try:
                response = self.server.api.answer(self.command, self.path, body)
            except Exception:  # the connection must end with an answer; the reason is in the log
                _log.exception("%s %s failed", self.command, self.path)
                response = error_response(500, "internal error; the server's log has the reason")
            self._send(response)

    def _send(self, response: RestResponse) -> None:
        self._send_bytes(_message(response, close=self.close_connection))

    def _send_bytes(self, content: bytes) -> None:
        self.connection.settimeout(self.server.options.request_s)  # of all of it, not of each part
        try:
            self.connection.sendall(content)
        except TimeoutError as error:
            raise ConnectionAbortedError("the client does not read its answer") from error


def _message(response: RestResponse, *, close: bool) -> bytes:
    reason = http.server.BaseHTTPRequestHandler.responses.get(response.status, ("Error", ""))[0]
    head = [
        f"HTTP/1.1 {response.status} {reason}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        *(["Connection: close"] if close else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + response.body
