"""ServerChannel: one connection to a model server, with a deadline and retries."""

import random
import re
import time
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from serving.ranking_error import RankingError
from serving.retry_budget import RetryBudget

Response = TypeVar("Response", bound=Message)

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message sent or taken."""

MAX_DEADLINE_S = 86_400.0
"""Longest deadline of a request: a day."""

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)
_FIRST_BACKOFF_S = 0.02
_LAST_BACKOFF_S = 0.5


class ServerChannel:
    """Calls methods of a model server over gRPC. Safe to share between threads.

    A call is tried again, after an exponential backoff with jitter, while the server can't be reached or aborts
    (UNAVAILABLE, ABORTED), as long as the deadline leaves time and the budget has a token. RESOURCE_EXHAUSTED is never
    tried again: the server says that it has too much to do, and would have more. All methods that this is used for may
    be repeated.
    """

    def __init__(
        self, address: str, root_certificates: bytes | Path | None = None, retry_budget: RetryBudget | None = None
    ) -> None:
        """Connects at the first call.

        Args:
            address: "host:port" of the server's gRPC interface.
            root_certificates: PEM certificates, or the file that has them, of who vouches for the server: the
                connection uses TLS. None: it isn't encrypted.
            retry_budget: Bounds retries; None: only the deadline does.

        Raises:
            ValueError: The address has another form, or there is no certificate.
            OSError: The file of certificates can't be read.
        """
        form = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", address)
        if form is None or not 1 <= int(form[2]) <= 65535:
            raise ValueError(
                "address of a model server must be host:port with a port from 1 to 65535, e.g. 127.0.0.1:8500, got "
                f"{address!r}"
            )
        self.address = address
        self._encrypted = root_certificates is not None
        self._retry_budget = retry_budget
        options = [
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # Retries happen here, within the caller's deadline, and must not find a connection that sits out the
            # default backoff of up to two minutes after a restart of the server.
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        if root_certificates is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            credentials = grpc.ssl_channel_credentials(_certificates(root_certificates))
            self._channel = grpc.secure_channel(address, credentials, options)
        self._stubs: dict[str, Any] = {}

    def call(self, method: str, request: Message, response: type[Response], deadline_s: float) -> Response:
        """Sends `request` to `method` ("/package.Service/Method"); takes at most `deadline_s` seconds, with retries.

        Raises:
            RankingError: No answer within the deadline, or an error as the answer.
        """
        stub = self._stubs.get(method)
        if stub is None:
            stub = self._stubs[method] = self._channel.unary_unary(
                method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
            )
        if self._retry_budget is not None:
            self._retry_budget.note_call()
        end = time.monotonic() + deadline_s
        backoff_s = _FIRST_BACKOFF_S
        attempts = 0
        while True:
            attempts += 1
            try:
                return stub(request, timeout=max(end - time.monotonic(), 0.0))
            except grpc.RpcError as error:
                wait_s = backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter needs no secrecy
                if error.code() not in _RETRIED or time.monotonic() + wait_s >= end or not self._may_retry():
                    raise self._explain(error, attempts, deadline_s) from error
            time.sleep(wait_s)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    def close(self) -> None:
        """Ends the connection; calls under way fail."""
        self._channel.close()

    def _may_retry(self) -> bool:
        return self._retry_budget is None or self._retry_budget.take()

    def _explain(self, error: Any, attempts: int, deadline_s: float) -> RankingError:
        code, details = error.code(), error.details() or "no details"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return RankingError(
                code.name,
                f"the model server at {self.address} did not answer within the deadline of {deadline_s:g} s "
                f"(attempts: {attempts}); it is overloaded, or the deadline is too short for the request",
            )
        if code == grpc.StatusCode.UNAVAILABLE:
            security = "TLS, as root certificates are given" if self._encrypted else "no TLS"
            return RankingError(
                code.name,
                f"no model server can be reached at {self.address} (attempts: {attempts} within {deadline_s:g} s): "
                f"{details}; start one with `foresight serve`, or check the address and whether it speaks {security}",
            )
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return RankingError(
                code.name,
                f"the model server at {self.address} has too much to do, or the message is too large: {details}; "
                "it isn't asked again, which would make it worse",
            )
        return RankingError(code.name, f"the model server at {self.address} answered {code.name}: {details}")


def check_deadline(deadline_s: float) -> None:
    """Raises ValueError if a deadline isn't positive, or longer than `MAX_DEADLINE_S`."""
    if not 0 < deadline_s <= MAX_DEADLINE_S:
        raise ValueError(
            f"deadline_s must be a positive number of seconds, at most {MAX_DEADLINE_S:g} (a day), got {deadline_s!r}"
        )


def _certificates(given: bytes | Path) -> bytes:
    content = given.read_bytes() if isinstance(given, Path) else given
    if b"-----BEGIN CERTIFICATE-----" not in content:
        where = given if isinstance(given, Path) else f"{len(content)} bytes"
        raise ValueError(f"root_certificates: no certificate in PEM form in {where}; give the file of the authority")
    return content
