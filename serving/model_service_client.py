"""ModelServiceClient: what a model server has loaded, and what it is told to load."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError
from serving.server_channel import ServerChannel

_GET_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
_ANSWER_S = 2.0
_POLL_S = 0.05


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """State of one version of a model.

    Attributes:
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END". A version that failed to load is at LOADING as
            long as the server tries again, then at END.
        error: Why it failed; empty if it did not, and with TensorFlow Serving as long as it tries again.
    """

    version: int
    state: str
    error: str


class ModelServiceClient:
    """Calls ModelService of TensorFlow Serving, or of the local server."""

    def __init__(self, address: str, root_certificates: bytes | Path | None = None) -> None:
        """Connects at the first request.

        Args:
            address: "host:port" of the server's gRPC interface.
            root_certificates: PEM certificates of the server's authority, or their file, for TLS.

        Raises:
            ValueError: An argument is out of range.
            OSError: The file of certificates can't be read.
        """
        self._channel = ServerChannel(address, root_certificates)

    def status(self, model_name: str, *, deadline_s: float = _ANSWER_S) -> dict[int, VersionStatus]:
        """Version -> its state, of all versions that the server has seen.

        Raises:
            RankingError: The server doesn't answer, or knows no version of the model (NOT_FOUND).
        """
        request = api.GetModelStatusRequest()
        request.model_spec.name = model_name
        response = self._channel.call(_GET_STATUS, request, api.GetModelStatusResponse, deadline_s)
        return {
            entry.version: VersionStatus(
                entry.version, api.ModelVersionStatus.State.Name(entry.state), entry.status.error_message
            )
            for entry in response.model_version_status
        }

    def reload(self, configs: Sequence[api.ModelConfig], *, deadline_s: float = 60.0) -> None:
        """Makes the server serve exactly `configs`; returns when new models are available.

        Raises:
            RankingError: The server doesn't answer, or refuses; then it goes on as before.
        """
        request = api.ReloadConfigRequest()
        request.config.model_config_list.config.extend(configs)
        self._channel.call(_RELOAD, request, api.ReloadConfigResponse, deadline_s)

    def wait_for_version(self, model_name: str, version: int | None, timeout_s: float) -> int:
        """Waits until `version` is available, or any version for None, and returns its number (the newest).

        Raises:
            RankingError: That is not so after `timeout_s` seconds, or the version failed to load.
        """
        end = time.monotonic() + timeout_s
        while True:
            seen = "the server has not answered"
            try:
                states = self.status(model_name, deadline_s=min(_ANSWER_S, max(end - time.monotonic(), _POLL_S)))
            except RankingError as error:
                if error.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND"):
                    raise
                seen = str(error)
            else:
                available = [status.version for status in states.values() if status.state == "AVAILABLE"]
                if available and version in (None, *available):
                    return max(available) if version is None else version
                if version in states and states[version].error:  # a retry may mend it, but nobody should wait for that
                    reason = states[version].error
                    raise RankingError(
                        "FAILED_PRECONDITION", f"version {version} of model {model_name!r} failed to load: {reason}"
                    )
                seen = f"states: { {v: s.state + (f' ({s.error})' if s.error else '') for v, s in states.items()} }"
            if time.monotonic() >= end:
                wanted = "no version" if version is None else f"not version {version}"
                raise RankingError(
                    "DEADLINE_EXCEEDED",
                    f"{wanted} of model {model_name!r} is available at {self._channel.address} "
                    f"after {timeout_s:g} s; {seen}",
                )
            time.sleep(_POLL_S)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "ModelServiceClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
