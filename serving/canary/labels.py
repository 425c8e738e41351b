"""CanaryLabels: gives a version its label, and takes it away, in the online store and on the server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from serving.label_config import LabelConfig
from serving.model_service_client import ModelServiceClient
from serving.protos import serving_api_pb2 as api


class Promoter(Protocol):
    """What computes a version's foresight vectors and then moves a label to it: `serving.room_side.RoomSide`."""

    def promote(self, version: int, label: str = "stable") -> Any:
        """Gives a version a label."""


class ServedVersions(Protocol):
    """Labels, and widths of vectors."""

    @property
    def labels(self) -> Mapping[str, int]:
        """Label -> version."""

    @property
    def foresight_sizes(self) -> Mapping[int, int]:
        """Version -> width of its foresight vectors."""


class ServedStore(Protocol):
    """What the labels stand in: `beam_transforms.online_store.OnlineStore`, opened for writing."""

    @property
    def served(self) -> ServedVersions:
        """What is served."""

    def set_served(self, labels: Mapping[str, int], foresight_sizes: Mapping[int, int]) -> None:
        """Replaces it."""


class CanaryLabels:
    """Gives a version its label, and takes it away, in the online store and on the server."""

    def __init__(
        self,
        room_side: Promoter,
        store: ServedStore,
        service: ModelServiceClient,
        model_config: api.ModelConfig | Path | None,
        model_name: str,
    ) -> None:
        """Uses what is given, and closes nothing.

        Args:
            room_side: Promotes.
            store: The online store, opened for writing.
            service: The server's.
            model_config: The server's configuration, as for the room side; None leaves the server's labels alone.
            model_name: The name under which the server knows the model.

        Raises:
            ValueError: The configuration can't be used.
            OSError: It can't be read.
        """
        self._room_side, self._store, self._service, self._model_name = room_side, store, service, model_name
        self._config = None if model_config is None else LabelConfig(model_config, model_name)

    @property
    def served(self) -> Mapping[str, int]:
        """Label -> version, as clients go by.

        Raises:
            ValueError, OSError: The store can't be read.
        """
        return self._store.served.labels

    @property
    def available(self) -> set[int]:
        """Versions that the server has.

        Raises:
            RankingError: The server doesn't answer.
        """
        states = self._service.status(self._model_name)
        return {version for version, status in states.items() if status.state == "AVAILABLE"}

    def promote(self, version: int, label: str) -> None:
        """As the room side does: vectors first, then the label.

        Raises:
            RankingError: The server doesn't answer, refuses, or doesn't have the version.
            ValueError, OSError: The store can't be read or written.
        """
        self._room_side.promote(version, label)

    def withdraw(self, label: str) -> None:
        """Takes a label away: in the store first, so that nobody asks for it any more. Nothing if it isn't there.

        The version's vectors are kept for requests that are under way, until the next promotion.

        Raises:
            RankingError: The server doesn't answer, or refuses.
            ValueError, OSError: The store can't be read or written.
        """
        served = self._store.served
        if label in served.labels:
            labels = {name: version for name, version in served.labels.items() if name != label}
            self._store.set_served(labels, served.foresight_sizes)
        if self._config is not None:
            self._config.withdraw(label, self._service)
