"""SignatureClient: what the signatures of a served model take and give."""

import dataclasses
from pathlib import Path
from types import TracebackType

from google.protobuf.message import DecodeError

from serving.protos import model_metadata_pb2 as metadata
from serving.ranking_error import RankingError
from serving.server_channel import ServerChannel

_GET_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_SIGNATURES = "signature_def"
_ANSWER_S = 5.0


@dataclasses.dataclass(frozen=True)
class Signature:
    """Names and shapes, the batch first, of a signature's inputs and outputs; -1 stands for any size."""

    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]


class SignatureClient:
    """Calls PredictionService.GetModelMetadata of TensorFlow Serving, or of the local server."""

    def __init__(self, address: str, root_certificates: bytes | Path | None = None) -> None:
        """Connects at the first request; see `ServerChannel`."""
        self._channel = ServerChannel(address, root_certificates)

    def signatures(self, model_name: str, version: int, *, deadline_s: float = _ANSWER_S) -> dict[str, Signature]:
        """Name -> signature of one version of a model.

        Raises:
            RankingError: There is no answer, it can't be read, or the server doesn't serve the version.
        """
        request = metadata.GetModelMetadataRequest(metadata_field=[_SIGNATURES])
        request.model_spec.name = model_name
        request.model_spec.version.value = version
        response = self._channel.call(_GET_METADATA, request, metadata.GetModelMetadataResponse, deadline_s)
        try:
            found = metadata.SignatureDefMap.FromString(response.metadata[_SIGNATURES].value)
        except DecodeError as error:
            raise RankingError(
                "INTERNAL", f"the signatures of version {version} of model {model_name!r} can't be read: {error}"
            ) from error
        return {
            name: Signature(_shapes(dict(signature.inputs)), _shapes(dict(signature.outputs)))
            for name, signature in found.signature_def.items()
        }

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "SignatureClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _shapes(tensors: dict[str, metadata.TensorInfo]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(dim.size for dim in info.tensor_shape.dim) for name, info in tensors.items()}
