"""What is removed from an LMDB store with each window."""

from collections.abc import Iterator
from typing import cast

import lmdb

from beam_transforms.foresight_vectors import VECTOR_MEMORY_MS, vector_as_of_ms
from beam_transforms.online_store import SLACK_MS
from beam_transforms.record_layout import RecordLayout
from beam_transforms.served import Served
from beam_transforms.store_head import StoreHead

RECORD, VECTOR = b"\x01", b"\x02"
"""The first byte of keys of records, and of foresight vectors: before them stands what a store has once."""

PLACE = b"\x00swept"
"""Key of the place where the last sweep stopped."""


def sweep(transaction: lmdb.Transaction, head: StoreHead, served: Served, steps: int) -> int:
    """Removes what expired among the next `steps` records and vectors, going on where the last sweep stopped."""
    by_version: dict[bytes, RecordLayout] = {layout.version: layout for layout in head.layouts.values()}
    live = set(head.live_ids.tolist())
    expired = []
    cursor = transaction.cursor()
    place = RECORD
    if cursor.set_range(transaction.get(PLACE, RECORD)):
        for key, record in cast(Iterator[tuple[bytes, bytes]], cursor.iternext()):
            place = key
            if not steps:
                break
            steps -= 1
            if key[:1] == VECTOR:
                gone = _is_vector_over(key, record, head, served, live)
            else:
                layout = by_version.get(key[1:9])
                gone = layout is None or (
                    layout.expired(record, head.as_of_ms, SLACK_MS)
                    and not (layout.of_rooms and layout.first_id(key[1:]) in live)
                )
            if gone:
                expired.append(key)
    for key in expired:
        transaction.delete(key)
    transaction.put(PLACE, RECORD if steps else place)
    return len(expired)


def _is_vector_over(key: bytes, record: bytes, head: StoreHead, served: Served, live: set[int]) -> bool:
    """A version that is being promoted isn't served yet: so its vectors have their time, too."""
    if head.as_of_ms - vector_as_of_ms(record) <= VECTOR_MEMORY_MS + SLACK_MS:
        return False
    version, room = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:17], "big", signed=True)
    return version not in served.foresight_sizes or room not in live
