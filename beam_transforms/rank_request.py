"""RankRequest: all that the ranker is asked with for one user."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class RankRequest:
    """Features, foresight vectors and the version that made these vectors, of one state of the online store.

    Attributes:
        version: The version of the model that is to be asked, and that the vectors are of. None if nothing is served
            under stored vectors: then `serving_default` of the newest version answers.
        live_ids: The rooms, int64 of shape (R,).
        has_foresight: Whether there is a vector of the room, bool of shape (R,). Where there is none, the room's row
            in `foresight` means nothing: ask `serving_default` of the same version.
        foresight: The vectors, float32 of shape (R, F); F is 0 for a model without any, and without a version.
        foresight_as_of_ms: End of the window as of which each was computed, int64 of shape (R,); -1 without one.
        inputs: All inputs of `serving_default` by name, each of shape (R, ...). The inputs of `rank` are those that
            aren't among the store's `sequence_names`, and `foresight`.
    """

    version: int | None
    live_ids: np.ndarray
    has_foresight: np.ndarray
    foresight: np.ndarray
    foresight_as_of_ms: np.ndarray
    inputs: dict[str, np.ndarray]
