"""WriteResult: what a write into the online store did."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class WriteResult:
    """What `OnlineStore.write` did.

    Attributes:
        skipped: The store is already further: the window is the replay of one that was written. Nothing was changed.
        records: Number of records written.
        removed: Number of records removed, because they expired or were replaced; None where the store removes them
            by itself.
    """

    skipped: bool
    records: int = 0
    removed: int | None = 0
