"""FeatureStore: what the client needs of an online store."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class StoredRequest(Protocol):
    """What a request is answered from, read at once: features, version and vectors are of one state of the store."""

    @property
    def version(self) -> int | None:
        """The version that the label stands for, whose vectors these are; None if the store has no such label."""

    @property
    def live_ids(self) -> np.ndarray:
        """The rooms (R,), int64."""

    @property
    def has_foresight(self) -> np.ndarray:
        """(R,) bool: which rooms have a vector of `version`."""

    @property
    def foresight(self) -> np.ndarray:
        """The vectors (R, F), float32; what stands in rows without one isn't used."""

    @property
    def foresight_as_of_ms(self) -> np.ndarray:
        """(R,) int64: end of the window that each vector was computed from."""

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        """The inputs of `serving_default` by name, each (R, ...)."""


class ServedVersions(Protocol):
    """Which versions have stored vectors."""

    @property
    def labels(self) -> Mapping[str, int]:
        """Label -> version."""


class FeatureStore(Protocol):
    """What the client needs of a store of online features, e.g. `beam_transforms.online_store.OnlineStore`."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the model's outputs, one for each task."""

    @property
    def sequence_names(self) -> Sequence[str]:
        """The inputs of `serving_default` that signature `rank` doesn't take: a foresight vector stands for them."""

    @property
    def served(self) -> ServedVersions:
        """What `rank_request` reads under."""

    def rank_request(
        self,
        user_id: int,
        live_ids: Sequence[int] | np.ndarray | None = None,
        now_ms: int | None = None,
        label: str = "stable",
    ) -> StoredRequest:
        """What ranking `live_ids`, by default all live rooms, for a user needs, in one read.

        Raises KeyError or ValueError for a user or a room that it doesn't know, OSError if it can't be reached.
        """
