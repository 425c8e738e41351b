"""StoreSnapshot: what was read of an online store at once."""

import dataclasses

from beam_transforms.served import Served
from beam_transforms.store_head import StoreHead


@dataclasses.dataclass(frozen=True)
class StoreSnapshot:
    """One state of a store: its head, what is served, and the records and vectors that were wanted.

    Attributes:
        records: In the order of `WantedRecords.keys`; None where there is none.
        vectors: Records of foresight vectors, in the order of `WantedRecords.live_ids`; None where there is none.
    """

    head: StoreHead
    served: Served
    records: list[bytes | None]
    vectors: list[bytes | None]
