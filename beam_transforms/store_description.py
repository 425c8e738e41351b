"""What an online store holds of a room, of a user, or of both, for people to look at."""

from collections.abc import Callable
from typing import Any

import numpy as np

from beam_transforms.record_layout import RecordLayout, written_ms
from beam_transforms.store_head import StoreHead
from beam_transforms.store_snapshot import StoreSnapshot
from beam_transforms.wanted_records import WantedRecords

Read = Callable[[Callable[[StoreHead], WantedRecords]], StoreSnapshot]


def describe_store(read: Read, live_id: int | None, user_id: int | None) -> dict[str, Any]:
    """See `OnlineStore.describe`; `read` reads the records that are wanted for a head."""
    room = np.array([] if live_id is None else [live_id], dtype=np.int64)
    ids = {} if live_id is None else {"live_id": room}
    ids |= {} if user_id is None else {"user_id": np.array([user_id], dtype=np.int64)}
    found = read(lambda head: WantedRecords(head.layouts[("live_id",)].keys({"live_id": room})))
    head = found.head
    if found.records and found.records[0] is not None:
        columns = head.layouts[("live_id",)].columns(found.records, head.as_of_ms)
        ids["author_id"] = columns["author_id"].reshape(-1)
    parts: list[RecordLayout] = []

    def wanted(head: StoreHead) -> WantedRecords:
        parts[:] = [layout for layout in head.layouts.values() if set(layout.key) <= set(ids)]
        return WantedRecords([key for layout in parts for key in layout.keys(ids)])

    found = read(wanted)
    head = found.head
    return {
        "as_of_ms": head.as_of_ms,
        "live_rooms": len(head.live_ids),
        "schema": head.schema,
        "live": None if live_id is None else bool(head.find(room)[1][0]),
        "records": [
            {
                "key": {name: int(ids[name][0]) for name in layout.key},
                "written_ms": None if record is None else written_ms(record),
                "features": {n: v[0] for n, v in layout.columns([record], head.as_of_ms).items()} if record else {},
                "entries": {name: layout.entry_names(name) for name in layout.contents},
            }
            for layout, record in zip(parts, found.records, strict=True)
        ],
    }
