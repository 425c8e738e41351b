"""The ranking client: what its import costs, and what it does itself to rank 300 rooms.

Each import is that of a fresh process, less what a bare interpreter takes. Rankings read an LMDB store of 5,000 rooms
with the demo's features and stored foresight vectors; the server's answer is there at once, so what is measured is
reading, packing the request, reading the answer and putting rooms in order. Times are of the processor.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
from google.protobuf.message import Message

from beam_transforms.online_store import open_online_store
from benchmarks.harness import figure, goal, report
from benchmarks.serving_rig.recipe import BEGIN_MS, DEMO
from serving.client import RankingClient
from serving.protos import serving_api_pb2 as api
from serving.server_channel import ServerChannel
from serving.tensors import to_tensor_proto

OPTIONS: list[click.Parameter] = [
    click.Option(["--rounds"], type=click.IntRange(1), default=5, show_default=True, help="Of each measurement."),
    click.Option(["--rooms"], type=click.IntRange(300), default=5000, show_default=True, help="Live rooms."),
]

_ROOT = Path(__file__).parents[1]
_IMPORTS = {
    "serving.client": "import serving.client",
    "serving.client and the LMDB store": "import serving.client, beam_transforms.lmdb_store",
}
_REQUESTS = 200
_ASKED = 300
_FORESIGHT = 64
_VERSION = 5


def run(rounds: int = 5, rooms: int = 5000) -> dict[str, Any]:
    """Seconds of an import, and milliseconds of a ranking."""
    bare = [_seconds("pass") for _ in range(rounds)]
    goals = []
    for name, code in _IMPORTS.items():
        taken = [_seconds(code) - usual for usual in bare]
        goals.append(goal(f"seconds to import {name}", taken, "<=", 0.5))
    with tempfile.TemporaryDirectory() as folder:
        figures = _rankings(folder, rounds, rooms)
    return report("client", goals, "grpcio", "protobuf", "numpy", "lmdb", figures=figures)


def _seconds(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=True)  # noqa: S603 - code of this file
    return time.perf_counter() - begin


def _rankings(folder: str, rounds: int, rooms: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    with open_online_store(folder, readonly=False) as store:
        store.write(DEMO.schema, BEGIN_MS, _tables(rooms), np.arange(rooms))
        store.set_served({"stable": _VERSION}, {_VERSION: _FORESIGHT})
        vectors = generator.random((rooms, _FORESIGHT), np.float32)
        store.write_foresight(_VERSION, np.arange(rooms), vectors, BEGIN_MS)
    answer = api.PredictResponse()
    answer.model_spec.version.value = _VERSION
    for task in DEMO.schema.task_names:
        answer.outputs[task].CopyFrom(to_tensor_proto(generator.random(_ASKED, np.float32)))
    data = answer.SerializeToString()

    def call(_: ServerChannel, method: str, request: Message, response: type[Message], deadline_s: float) -> Message:
        request.SerializeToString()
        return response.FromString(data)

    with (
        mock.patch.object(ServerChannel, "call", call),
        open_online_store(folder) as store,
        RankingClient("127.0.0.1:1", "live_ranker", store) as client,
    ):
        asked = [generator.choice(rooms, _ASKED, replace=False) for _ in range(_REQUESTS)]
        read = [_median_ms(lambda live_ids: store.rank_request(1, live_ids), asked) for _ in range(rounds)]
        whole = [_median_ms(lambda live_ids: client.rank(1, live_ids, limit=10), asked) for _ in range(rounds)]
    return [
        figure(f"ms to rank {_ASKED} rooms but for the server, p50", whole),
        figure("ms of that to read the store, p50", read),
    ]


def _median_ms(call: Callable[[np.ndarray], object], asked: list[np.ndarray]) -> float:
    taken = []
    for live_ids in asked:
        begin = time.thread_time()
        call(live_ids)
        taken.append(1000 * (time.thread_time() - begin))
    return float(np.median(taken))


def _tables(rooms: int) -> dict[tuple[str, ...], list[dict[str, np.ndarray]]]:
    """All rooms and their authors; a user who met some of them."""
    met = np.arange(20)
    ids = {
        ("live_id",): {"live_id": np.arange(rooms), "author_id": np.arange(rooms) // 2},
        ("user_id",): {"user_id": np.array([1])},
        ("author_id",): {"author_id": np.arange(rooms // 2 + 1)},
        ("user_id", "author_id"): {"user_id": np.ones(20, np.int64), "author_id": met},
        ("user_id", "live_id"): {"user_id": np.ones(20, np.int64), "live_id": met},
    }
    tables = {}
    for key, features in DEMO.schema.stored.items():
        columns: dict[str, np.ndarray] = dict(ids[key])
        rows = len(columns[key[0]])
        for feature in features:
            columns.setdefault(feature.name, np.ones((rows, *feature.shape), feature.dtype))
        tables[key] = [columns]
    return tables
