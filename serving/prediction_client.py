"""PredictionClient: asks a model for its outputs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError
from serving.retry_budget import RetryBudget
from serving.server_channel import ServerChannel, check_deadline
from serving.tensors import named_arrays, predict_request

_PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Outputs by name, and the version of the model that computed them."""

    version: int
    outputs: dict[str, np.ndarray]


class PredictionClient:
    """Calls PredictionService.Predict of TensorFlow Serving, or of the local server. Safe to share between threads."""

    def __init__(
        self,
        address: str,
        model_name: str,
        *,
        deadline_s: float = 0.5,
        root_certificates: bytes | Path | None = None,
        retry_budget: RetryBudget | None = None,
    ) -> None:
        """Connects at the first request.

        Args:
            address: "host:port" of the server's gRPC interface.
            model_name: The name under which the server knows the model.
            deadline_s: Seconds within which each request, with its retries, succeeds or fails; at most a day.
            root_certificates: PEM certificates of the server's authority, or their file, for TLS.
            retry_budget: Bounds retries; by default `RetryBudget()`: in the long run one for each ten requests.

        Raises:
            ValueError: An argument is out of range.
            OSError: The file of certificates can't be read.
        """
        if not model_name:
            raise ValueError("model_name must not be empty; it is the name of the folder that holds the versions")
        check_deadline(deadline_s)
        self.model_name = model_name
        self.deadline_s = deadline_s
        self._channel = ServerChannel(address, root_certificates, retry_budget or RetryBudget())

    def predict(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        signature_name: str = "serving_default",
        version: int | None = None,
        label: str | None = None,
        deadline_s: float | None = None,
    ) -> Prediction:
        """The outputs for `inputs` (name -> array with the batch first).

        Args:
            signature_name: Which of the model's functions to call.
            version: A version to insist on; the newest available one by default.
            label: The label of a version, instead of `version`.
            deadline_s: Instead of the client's.

        Raises:
            ValueError: Both a version and a label are given, the deadline is out of range, or an input has a type that
                can't be sent.
            RankingError: There is no answer, or it can't be read.
        """
        if version is not None and label is not None:
            raise ValueError(f"give a version or a label, not both: got version {version} and label {label!r}")
        request = predict_request(self.model_name, inputs, signature_name=signature_name)
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        budget_s = self.deadline_s if deadline_s is None else deadline_s
        check_deadline(budget_s)
        response = self._channel.call(_PREDICT, request, api.PredictResponse, budget_s)
        try:
            outputs = named_arrays(response.outputs)
        except ValueError as error:
            raise RankingError("INTERNAL", f"the answer of model {self.model_name!r} can't be read: {error}") from error
        return Prediction(response.model_spec.version.value, outputs)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "PredictionClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
