"""Small live logs for the tests of streams, and how they arrive: shuffled, doubled, late."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_transforms.codebook import Codebook
from beam_transforms.columnar import to_batch, to_columns
from beam_transforms.content import product_batch, segment_batch
from beam_transforms.encode_event_lines import encode_event_lines
from beam_transforms.events import event_batch
from beam_transforms.online_store import open_online_store
from beam_transforms.schema import LIVE_SCHEMA, PADDING_ID, EventKind, RankingSchema
from beam_transforms.sources.followed_directory import FollowedDirectory
from tests.beam_transforms.event_logs import NOON_MS

WIDTH = 3
CODEBOOK = Codebook(np.random.default_rng(5).normal(size=(5, WIDTH)).astype(np.float32))
SCHEMA = dataclasses.replace(
    LIVE_SCHEMA,
    sequence_length=6,
    entered_authors_length=4,
    semantic_id_length=4,
    codes=CODEBOOK.size,
    codebook=CODEBOOK.version,
    product_length=3,
    categories=(2, 3, 4),
)
LENGTHS = (4, 3)
"""Lengths of the sequences of semantic ids and products in `SCHEMA`."""

Log = dict[str, pa.RecordBatch]
_KINDS = [kind for kind in EventKind if kind not in (EventKind.ROOM_START, EventKind.ROOM_END)]
_LIKELY = np.array([8 if kind in (EventKind.EXPOSURE, EventKind.ENTER) else 1 for kind in _KINDS])


def live_log(seed: int, minutes: int = 12, events: int = 300, users: int = 5, rooms: int = 4) -> Log:
    """Events, segments and products; rooms open and end at some time, whatever happens in them before and after."""
    rng = np.random.default_rng(seed)
    length_ms = minutes * 60_000

    def moments(count: int) -> np.ndarray:
        return NOON_MS + rng.integers(0, length_ms, count)

    room = rng.integers(0, rooms, events)
    kinds = [rng.choice(_KINDS, events, p=_LIKELY / _LIKELY.sum()), np.full(rooms, 15), np.full(rooms // 2, 16)]
    times = [moments(events), NOON_MS + rng.integers(0, length_ms // 3, rooms), moments(rooms // 2)]
    people = [rng.integers(0, users, events), np.full(rooms + rooms // 2, PADDING_ID)]
    where = np.concatenate([room, np.arange(rooms), np.arange(rooms // 2)])
    value = rng.integers(1, 90, len(where)).astype(np.float32)
    every = np.arange(0, length_ms, 20_000)
    shown = np.repeat(np.arange(rooms), len(every))
    vectors = CODEBOOK.codes[rng.integers(0, CODEBOOK.size, len(shown))] + rng.normal(0, 0.01, (len(shown), WIDTH))
    sold = rng.integers(0, rooms, 20)
    products = [rng.integers(0, 9, 20) for _ in range(4)]
    return {
        "events": event_batch(*map(np.concatenate, (kinds, times, people)), where // 2, where, value),
        "segments": segment_batch(shown, shown // 2, NOON_MS + np.tile(every, rooms) + 17_999, vectors),
        "products": product_batch(sold, sold // 2, moments(20), *products),
    }


def arrivals(
    log: Mapping[str, pa.RecordBatch], seed: int, delay_ms: int, doubled: int = 20, longest_ms: int = 60_000
) -> list[bytes]:
    """The log as blocks of lines, in the order of their arrival: each row up to `delay_ms` late, some of them twice."""
    rng = np.random.default_rng(seed)
    lines: list[bytes] = []
    times: list[np.ndarray] = []
    for batch in log.values():
        found = encode_event_lines(batch).splitlines(keepends=True)
        chosen = np.concatenate([np.arange(len(found)), rng.integers(0, len(found), min(doubled, len(found)))])
        lines += [found[row] for row in chosen]
        times.append(to_columns([batch])["timestamp_ms"][chosen])
    arrival = np.concatenate(times) + rng.integers(0, delay_ms, len(lines))
    # Micro-batches of two seconds and more; the rows of one are in any order.
    cuts = np.cumsum(rng.integers(2_000, longest_ms, 10 + int(np.ptp(arrival)) // 2_000)) + arrival.min()
    number = np.searchsorted(cuts, arrival)
    return [b"".join(lines[row] for row in rng.permutation(np.flatnonzero(number == n))) for n in np.unique(number)]


def put(folder: Path, blocks: Iterable[bytes]) -> Path:
    """Writes blocks as the files of a followed directory that has ended."""
    folder.mkdir(parents=True)
    for number, block in enumerate(blocks):
        (folder / f"{number:06d}.jsonl").write_bytes(block)
    (folder / "END").touch()
    return folder


def follow(folder: Path, width: int | None = WIDTH) -> FollowedDirectory:
    return FollowedDirectory(folder, embedding_width=width, future_ms=None, end_name="END")


def chosen(batch: pa.RecordBatch, rows: np.ndarray) -> pa.RecordBatch:
    return to_batch({name: values[rows] for name, values in to_columns([batch]).items()})


def stored(location: Path, schema: RankingSchema, as_of_ms: int, users: int = 5) -> dict:
    """All that a store answers about some users, live rooms and their pairs, as lists."""
    with open_online_store(location) as store:
        assert store.as_of_ms == as_of_ms, (store.as_of_ms, as_of_ms)
        answers: dict = {"live": store.live_ids.tolist()}
        for user in range(users):
            if answers["live"]:
                _, request = store.request(user)
                answers[user] = {name: values.tolist() for name, values in request.items()}
    return answers
