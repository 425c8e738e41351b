"""A small live log in which one room has a hundred times the events of any other, and how a topic holds it."""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np

from beam_transforms.content import product_batch, segment_batch
from beam_transforms.encode_event_lines import encode_event_lines
from beam_transforms.events import event_batch
from beam_transforms.schema import CATEGORIES, PADDING_ID, EventKind
from tests.beam_transforms.live_logs import CODEBOOK, SCHEMA, WIDTH, Log, arrivals

STREAM_SCHEMA = dataclasses.replace(SCHEMA, categories=CATEGORIES)
"""What an example of the log is; `build_examples` works out the same one."""

USERS, ROOMS = 300, 40
HOT_ROOM = 7
HOT = 100  # times the events of another room
EVENTS_A_ROOM = 200
LATENESS_MS = 60_000
_DELAY_MS = 10_000
_BLOCK_MS = 6_000
_KINDS = [kind for kind in EventKind if kind not in (EventKind.ROOM_START, EventKind.ROOM_END)]
_LIKELY = np.array([8 if kind in (EventKind.EXPOSURE, EventKind.ENTER) else 1 for kind in _KINDS])


def hot_room_log(start_ms: int, minutes: int, quiet_ms: int) -> Log:
    """Events, segments and products of `minutes`; a last event comes when all labels are known, `quiet_ms` later."""
    rng = np.random.default_rng(11)
    length_ms = minutes * 60_000
    rooms = np.concatenate([np.full(HOT * EVENTS_A_ROOM, HOT_ROOM), np.repeat(np.arange(ROOMS), EVENTS_A_ROOM)])
    count, ending = len(rooms), np.arange(0, ROOMS, 5)
    kinds = [rng.choice(_KINDS, count, p=_LIKELY / _LIKELY.sum()), np.full(ROOMS, 15), np.full(len(ending) + 1, 16)]
    times = [rng.integers(0, length_ms, count), rng.integers(0, length_ms // 3, ROOMS)]
    times += [rng.integers(length_ms // 2, length_ms, len(ending)), [length_ms + quiet_ms]]
    users = [rng.integers(0, USERS, count), np.full(ROOMS + len(ending) + 1, PADDING_ID)]
    where = np.concatenate([rooms, np.arange(ROOMS), ending, [ROOMS - 1]])
    value = rng.integers(1, 90, len(where)).astype(np.float32)
    every = np.arange(0, length_ms, 20_000)
    shown = np.repeat(np.arange(ROOMS), len(every))
    vectors = CODEBOOK.codes[rng.integers(0, CODEBOOK.size, len(shown))] + rng.normal(0, 0.01, (len(shown), WIDTH))
    sold = rng.integers(0, ROOMS, 200)
    products = [rng.integers(0, 9, 200) for _ in range(4)]
    return {
        "events": event_batch(
            np.concatenate(kinds), start_ms + np.concatenate(times), np.concatenate(users), where // 2, where, value
        ),
        "segments": segment_batch(shown, shown // 2, start_ms + np.tile(every, ROOMS) + 19_999, vectors),
        "products": product_batch(sold, sold // 2, start_ms + rng.integers(0, length_ms, 200), *products),
    }


def lines_of(log: Log) -> bytes:
    """All lines of a log."""
    return b"".join(map(encode_event_lines, log.values()))


def records(log: Log) -> Iterator[tuple[int, bytes]]:
    """(Kafka's timestamp, lines): out of order by less than the allowed lateness, some of them twice."""
    newest_ms = 0
    for block in arrivals(log, 12, _DELAY_MS, doubled=500, longest_ms=_BLOCK_MS):
        newest_ms = max(newest_ms, *(json.loads(line)["timestamp_ms"] for line in block.splitlines()))
        yield newest_ms, block
