"""RoomForecaster: the foresight vectors of rooms, asked from a model server."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from beam_transforms.stored_rooms import StoredRooms
from serving.prediction_client import PredictionClient
from serving.ranking_error import RankingError
from serving.signature_client import Signature, SignatureClient

FORECAST = "forecast"
FORESIGHT = "foresight"

_IN_FLIGHT = 2  # one batch is computed while another one is packed and unpacked


class RoomForecaster:
    """Asks the signature `forecast` of one version at a time, in batches.

    Args:
        address: "host:port" of the server's gRPC interface.
        model_name: The name under which the server knows the model.
        batch: Rooms a request.
        deadline_s: Seconds for a request.
        root_certificates: PEM certificates of the server's authority, or their file, for TLS.

    Raises:
        ValueError: An argument is out of range.
        OSError: The file of certificates can't be read.
    """

    def __init__(
        self,
        address: str,
        model_name: str,
        batch: int,
        deadline_s: float,
        root_certificates: bytes | Path | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1 room, got {batch}")
        self._model_name, self._batch = model_name, batch
        self._predictions = PredictionClient(
            address, model_name, deadline_s=deadline_s, root_certificates=root_certificates
        )
        self._signatures = SignatureClient(address, root_certificates)
        self._known: dict[int, Signature | None] = {}

    def size(self, version: int) -> int:
        """F, the width of a version's vectors; 0 for one without the signature `forecast`.

        Raises:
            RankingError: The server doesn't answer, doesn't serve the version, or doesn't tell the width.
        """
        signature = self._signature(version)
        if signature is None:
            return 0
        shape = signature.outputs.get(FORESIGHT, ())
        if len(shape) != 2 or shape[1] < 1:
            raise RankingError(
                "FAILED_PRECONDITION",
                f"signature {FORECAST!r} of version {version} of model {self._model_name!r} gives {signature.outputs}, "
                f"expected {FORESIGHT!r} of shape (rooms, F)",
            )
        return shape[1]

    def forecast(self, version: int, rooms: StoredRooms) -> np.ndarray:
        """The vectors (R, F), float32, of R rooms by a version.

        Raises:
            RankingError: The server doesn't answer, doesn't serve the version (NOT_FOUND), or answers with what aren't
                finite vectors; or the store lacks an input.
        """
        size, signature = self.size(version), self._signature(version)
        if signature is None or not len(rooms.live_ids):
            return np.zeros((len(rooms.live_ids), size), dtype=np.float32)
        lacking = sorted(set(signature.inputs) - set(rooms.columns))
        if lacking:
            raise RankingError(
                "FAILED_PRECONDITION",
                f"signature {FORECAST!r} of version {version} takes the inputs {lacking}, which the store doesn't have "
                f"of rooms, only {sorted(rooms.columns)}; model and store were made from different schemas",
            )
        inputs = {name: rooms.columns[name] for name in signature.inputs}
        vectors = np.empty((len(rooms.live_ids), size), dtype=np.float32)

        def ask(begin: int) -> None:
            end = min(begin + self._batch, len(vectors))
            batch = {name: values[begin:end] for name, values in inputs.items()}
            answer = self._predictions.predict(batch, signature_name=FORECAST, version=version).outputs
            found = answer.get(FORESIGHT, np.zeros(0))
            if found.shape != (end - begin, size) or not np.isfinite(found).all():
                raise RankingError(
                    "INTERNAL",
                    f"signature {FORECAST!r} of version {version} answered with {FORESIGHT!r} of shape {found.shape}, "
                    f"{np.count_nonzero(~np.isfinite(found))} entries of it not finite; expected finite vectors of "
                    f"shape {(end - begin, size)}",
                )
            vectors[begin:end] = found

        with ThreadPoolExecutor(_IN_FLIGHT) as threads:
            for _ in threads.map(ask, range(0, len(vectors), self._batch)):
                pass
        return vectors

    def close(self) -> None:
        self._predictions.close()
        self._signatures.close()

    def __enter__(self) -> "RoomForecaster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _signature(self, version: int) -> Signature | None:
        if version not in self._known:
            found = self._signatures.signatures(self._model_name, version).get(FORECAST)
            newest = sorted(self._known)[-8:]  # a version is never asked about again for long
            self._known = {known: self._known[known] for known in newest} | {version: found}
        return self._known[version]
