"""24 hours of events through the stages: what a stream remembers doesn't grow."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from beam_transforms.columnar import take, to_columns
from beam_transforms.events import event_batch
from beam_transforms.feature_stages import stages
from beam_transforms.impressions import IMPRESSION_COLUMNS
from beam_transforms.labels import FastWindow
from beam_transforms.local_stages import LocalStages
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, EventKind
from beam_transforms.stage_state import decode_state
from tests.beam_transforms.event_logs import NOON_MS

USERS, AUTHORS, EVENTS = 200, 20, 40  # events a window
HOUR_MS = 3_600_000
SCHEMA = dataclasses.replace(
    LIVE_SCHEMA, semantic_id_length=100, codes=50, codebook="v", product_length=50, categories=(5, 6, 7)
)
_KINDS = [kind for kind in EventKind if kind not in (EventKind.ROOM_START, EventKind.ROOM_END)]


def _window(rng: np.random.Generator, begin_ms: int) -> dict[str, list[dict[str, np.ndarray]]]:
    """What happens in 30 seconds: each author opens a room every hour, and ends the one before."""
    author = rng.integers(0, AUTHORS, EVENTS)
    hour = (begin_ms - NOON_MS - author * 60_000) // HOUR_MS
    rooms = (hour + 1) * AUTHORS + author
    times = begin_ms + rng.integers(0, WINDOW_MS, EVENTS)
    columns = [rng.choice(_KINDS, EVENTS), times, rng.integers(0, USERS, EVENTS), author, rooms, np.ones(EVENTS)]
    minute, rest = divmod((begin_ms - NOON_MS) % HOUR_MS, 60_000)
    if not rest and minute < AUTHORS:
        opened = ((begin_ms - NOON_MS - minute * 60_000) // HOUR_MS + 1) * AUTHORS + minute
        ended = max(opened - AUTHORS, 0)
        of_room = ([15, 16], [begin_ms] * 2, [-1, -1], [minute] * 2, [opened, ended], [1, 1])
        columns = [np.concatenate(pair) for pair in zip(columns, of_room, strict=True)]
    events = to_columns([event_batch(*columns)])
    shown = take({name: events[name] for name in IMPRESSION_COLUMNS}, np.flatnonzero(events["kind"] == 1))
    room, first = np.unique(rooms, return_index=True)
    ids = {"live_id": room, "author_id": author[first], "timestamp_ms": np.full(len(room), begin_ms + WINDOW_MS - 1)}
    names = ("product_id", "category_1", "category_2", "category_3")
    return {
        "events": [events],
        "impressions": [shown],
        "semantic_ids": [ids | {"semantic_id": rng.integers(0, 50, len(room))}],
        "products": [ids | {name: rng.integers(0, 5, len(room)) for name in names}],
    }


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_is_flat_over_a_day():
    rng = np.random.default_rng(0)
    running = LocalStages(SCHEMA, FastWindow(), 60_000)
    built = dict(zip(("user", "author", "room"), stages(SCHEMA, FastWindow(), True), strict=True))
    hours, examples = [], 0
    for hour in range(24):
        for window in range(HOUR_MS // WINDOW_MS):
            begin_ms = NOON_MS + hour * HOUR_MS + window * WINDOW_MS
            outputs = running.step(_window(rng, begin_ms), begin_ms + WINDOW_MS)
            examples += len(outputs["examples"]["live_id"])
        state = running.state
        rows = {}
        for name, data in state.items():
            decoded = decode_state(built[name], data)
            for table, columns in {**decoded.state, **decoded.rows}.items():
                rows[f"{name}.{table}"] = rows.get(f"{name}.{table}", 0) + len(columns["timestamp_ms"])
        hours.append({"MiB": _resident_mib(), "state": sum(map(len, state.values())), **rows})
        print(hour + 1, f"h: RSS {hours[-1]['MiB']:.0f} MiB, state {hours[-1]['state']:,} bytes, rows {rows}")
    assert examples > 8_000
    # Rooms are forgotten 3 hours after their last event, pairs of 200 users and 20 authors are all there after 8.
    early, late = hours[8:14], hours[-6:]
    for name in early[0]:
        before, after = (max(hour[name] for hour in part) for part in (early, late))
        spare = 24 if name == "MiB" else 50
        assert after <= 1.08 * before + spare, (name, before, after)
    assert hours[-1]["user.user"] <= USERS * (HOUR_MS // WINDOW_MS + 20)
    assert hours[-1]["user.entries"] <= USERS * SCHEMA.entered_authors_length + EVENTS * 40
