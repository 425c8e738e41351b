"""ServerChannel: one connection to a model server, with a deadline and retries."""

import random
import re
import time
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from serving.ranking_error import RankingError

Response = TypeVar("Response", bound=Message)

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message sent or taken."""

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)
_FIRST_BACKOFF_S = 0.02
_LAST_BACKOFF_S = 0.5


class ServerChannel:
    """Calls methods of a model server over gRPC. Safe to share between threads.

    A call is tried again, after an exponential backoff with jitter, while the server can't be reached or aborts
    (UNAVAILABLE, ABORTED), as long as the deadline leaves time. All methods that it is used for may be repeated.
    """

    def __init__(self, address: str) -> None:
        """Connects at the first call.

        Args:
            address: "host:port" of the server's gRPC interface.

        Raises:
            ValueError: The address has another form.
        """
        if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}", address):
            raise ValueError(f"address of a model server must be host:port, e.g. 127.0.0.1:8500, got {address!r}")
        self.address = address
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                # Retries happen here, within the caller's deadline, and must not find a connection that sits out the
                # default backoff of up to two minutes after a restart of the server.
                ("grpc.enable_retries", 0),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
            ],
        )

    def call(self, method: str, request: Message, response: type[Response], deadline_s: float) -> Response:
        """Sends `request` to `method` ("/package.Service/Method"); takes at most `deadline_s` seconds, with retries.

        Raises:
            RankingError: No answer within the deadline, or an error as the answer.
        """
        stub = self._channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        end = time.monotonic() + deadline_s
        backoff_s = _FIRST_BACKOFF_S
        attempts = 0
        while True:
            attempts += 1
            try:
                return stub(request, timeout=max(end - time.monotonic(), 0.0))
            except grpc.RpcError as error:
                wait_s = backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter needs no secrecy
                if error.code() not in _RETRIED or time.monotonic() + wait_s >= end:
                    raise self._explain(error, attempts, deadline_s) from error
            time.sleep(wait_s)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    def close(self) -> None:
        """Ends the connection; calls under way fail."""
        self._channel.close()

    def _explain(self, error: Any, attempts: int, deadline_s: float) -> RankingError:
        code, details = error.code(), error.details() or "no details"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return RankingError(
                code.name,
                f"the model server at {self.address} did not answer within the deadline of {deadline_s:g} s "
                f"(attempts: {attempts}); it is overloaded, or the deadline is too short for the request",
            )
        if code == grpc.StatusCode.UNAVAILABLE:
            return RankingError(
                code.name,
                f"no model server can be reached at {self.address} (attempts: {attempts} within {deadline_s:g} s): "
                f"{details}; start one with `foresight serve`, or check the address",
            )
        return RankingError(code.name, f"the model server at {self.address} answered {code.name}: {details}")
