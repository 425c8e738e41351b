"""The online store: a window of 50,000 rooms written, requests of 300 rooms read; a folder (LMDB) and a Redis server.

A room's record has everything: statistics, semantic ids and products. Each window rewrites all rooms, half as many
authors, and users with their pairs. Readers are measured between windows, and while another process writes one.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import click
import numpy as np

from beam_transforms.local_redis import HOW_TO_INSTALL, LocalRedis
from beam_transforms.online_store import OnlineStore, open_online_store
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, RankingSchema
from beam_transforms.window_write import Tables
from benchmarks.harness import figure, report

OPTIONS: list[click.Option] = [
    click.Option(["--rooms"], type=click.IntRange(1000), default=50_000, show_default=True, help="Live rooms."),
    click.Option(["--windows"], type=click.IntRange(1), default=5, show_default=True, help="Windows to write."),
]

_SCHEMA = RankingSchema(
    **{name: getattr(LIVE_SCHEMA, name) for name in ("metrics", "tasks", "histories")},
    name="full",
    semantic_id_length=100,
    codes=20_000,
    product_length=50,
    categories=(20, 200, 2000),
)
_BEGIN_MS = 1_750_000_000_000 // WINDOW_MS * WINDOW_MS
_ASKED = 300
_REQUESTS = 300
_USERS = 2000
_PAIRS = 10


def run(rooms: int = 50_000, windows: int = 5) -> dict[str, Any]:
    """Seconds a window takes to be written, and milliseconds a request takes."""
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        figures += _measure("LMDB", folder, rooms, windows)
    if LocalRedis.installed():
        with LocalRedis() as server:
            figures += _measure("Redis", server.url, rooms, windows)
    result = report("online-store", [], "numpy", "lmdb", "redis", "hiredis", figures=figures)
    room_bytes = 8 + sum(np.dtype(feature.dtype).itemsize * feature.size for feature in _SCHEMA.stored[("live_id",)])
    result["room_record_bytes"] = room_bytes
    if not LocalRedis.installed():
        result["left_out"] = f"Redis: {HOW_TO_INSTALL}"
    return result


def _measure(name: str, location: str, rooms: int, windows: int) -> Iterator[dict[str, Any]]:
    written: dict[str, list[float]] = {"seconds": [], "cpu": []}
    with open_online_store(location, readonly=False) as store:
        for number in range(windows + 1):
            filled = _tables(rooms, number)
            wall, cpu = time.perf_counter(), time.process_time()
            store.write(_SCHEMA, _BEGIN_MS + number * WINDOW_MS, filled, np.arange(rooms))
            if number:  # the first window makes the file grow
                written["seconds"].append(time.perf_counter() - wall)
                written["cpu"].append(time.process_time() - cpu)
    with open_online_store(location) as store:
        _latencies(store, rooms, 20, 99)
        calm = [_latencies(store, rooms, _REQUESTS, seed) for seed in range(windows)]
        writer = multiprocessing.get_context("spawn").Process(target=_write_on, args=(location, rooms, windows + 1))
        writer.start()
        busy: list[np.ndarray] = []
        while writer.is_alive():
            busy.append(_latencies(store, rooms, 50, len(busy)))
        writer.join()
        busy_ms = np.concatenate(busy)
    yield figure(f"{name}: seconds to write a window of {rooms:,} rooms", written["seconds"])
    yield figure(f"{name}: CPU seconds of the writer for it", written["cpu"])
    for place in (50, 99):
        samples = [float(np.percentile(latencies, place)) for latencies in calm]
        yield figure(f"{name}: ms to read {_ASKED} rooms, p{place}", samples)
    for place in (50, 99):
        sample = float(np.percentile(busy_ms, place))
        yield figure(f"{name}: ms to read {_ASKED} rooms while windows are written, p{place}", [sample])


def _latencies(store: OnlineStore, rooms: int, requests: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    latencies = []
    for _ in range(requests):
        asked = generator.choice(rooms, _ASKED, replace=False)
        begin = time.perf_counter()
        store.request(int(generator.integers(_USERS)), asked)
        latencies.append((time.perf_counter() - begin) * 1000)
    return np.array(latencies)


def _write_on(location: str, rooms: int, begin: int) -> None:
    with open_online_store(location, readonly=False) as store:
        for number in range(begin, begin + 3):
            store.write(_SCHEMA, _BEGIN_MS + number * WINDOW_MS, _tables(rooms, number), np.arange(rooms))


def _tables(rooms: int, number: int) -> Tables:
    users, pair = np.arange(_USERS), np.repeat(np.arange(_USERS), _PAIRS)
    met = np.random.default_rng(number).integers(0, rooms, len(pair))
    ids = {
        ("live_id",): {"live_id": np.arange(rooms)},
        ("user_id",): {"user_id": users},
        ("author_id",): {"author_id": np.arange(rooms // 2)},
        ("user_id", "author_id"): {"user_id": pair, "author_id": met // 2},
        ("user_id", "live_id"): {"user_id": pair, "live_id": met},
    }
    tables: Tables = {}
    for key, features in _SCHEMA.stored.items():
        columns: dict[str, np.ndarray] = dict(ids[key])
        rows = len(columns[key[0]])
        for feature in features:
            columns[feature.name] = np.full((rows, *feature.shape), number, dtype=feature.dtype)
        if key == ("live_id",):
            columns["author_id"] = columns["live_id"] // 2
        tables[key] = [columns]
    return tables
