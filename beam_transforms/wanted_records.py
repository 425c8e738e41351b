"""WantedRecords: what is to be read of an online store at once."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class WantedRecords:
    """Keys of records, and rooms whose foresight vectors are wanted.

    Attributes:
        keys: The records' keys, see `RecordLayout.keys`.
        version: The version whose vectors are wanted; None for no vectors.
        live_ids: The rooms whose vectors are wanted, int64 of shape (R,).
    """

    keys: Sequence[bytes] = ()
    version: int | None = None
    live_ids: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.int64))
