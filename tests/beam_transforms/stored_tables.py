"""Small tables for the tests of the online store, and stores filled with them."""

import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import redis

from beam_transforms.online_store import open_online_store
from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA, WINDOW_MS, EventKind, HistoryCounts, Metric, RankingSchema

BEGIN_MS = 1_750_000_000_000 // WINDOW_MS * WINDOW_MS

SMALL_SCHEMA = RankingSchema(
    name="small",
    metrics=(Metric("like", "interaction", EventKind.LIKE), Metric("comment", "interaction", EventKind.COMMENT)),
    tasks=LIVE_SCHEMA.tasks[:2],
    histories=(
        HistoryCounts("user", ("user_id",), (EventKind.LIKE, EventKind.ENTER), (60,), (EventKind.GIFT,)),
        HistoryCounts("author", ("author_id",), (EventKind.LIKE,)),
        HistoryCounts("user_author", ("user_id", "author_id"), (EventKind.LIKE,)),
        HistoryCounts("user_room", ("user_id", "live_id"), (EventKind.LIKE,)),
    ),
    sequence_length=4,
    entered_authors_length=3,
)
WIDE_SCHEMA = RankingSchema(
    **{name: getattr(LIVE_SCHEMA, name) for name in ("metrics", "tasks", "histories")},
    name="wide",
    semantic_id_length=5,
    codes=50,
    product_length=4,
    categories=(3, 4, 5),
)

ROOT = Path(__file__).parents[2]
NEXT_MS = BEGIN_MS + WINDOW_MS
ROOMS, USERS = np.arange(10, 16), np.arange(3)
SCHEMAS = (SMALL_SCHEMA, WIDE_SCHEMA, CHAT_SCHEMA)


def author_of(rooms):
    return np.asarray(rooms) // 2 + 1000


def table(schema, key, ids, as_of_ms, seed=None, value=None):
    """Columns of one stored table for rows of ids: random by `seed`, or `value` in each feature."""
    generator = np.random.default_rng(seed)
    columns = {name: np.asarray(column, dtype=np.int64) for name, column in zip(key, ids, strict=True)}
    rows = len(columns[key[0]])
    for feature in schema.stored[key]:
        shape = (rows, *feature.shape)
        if feature.name == "author_id":
            columns["author_id"] = author_of(columns["live_id"])
        elif feature.name.endswith("_last_ms"):
            columns[feature.name] = np.full(shape, as_of_ms - 1, dtype=np.int64)
        elif value is not None:
            columns[feature.name] = np.full(shape, value, dtype=feature.dtype)
        elif feature.dtype == "int64":
            columns[feature.name] = generator.integers(0, 1000, shape)
        else:
            columns[feature.name] = generator.normal(size=shape).astype(np.float32)
    return columns


def tables(schema, rooms, users, as_of_ms, seed=None, value=None):
    """All stored tables for rooms and users; each user has met each room and each author."""
    rooms, users = np.asarray(rooms), np.asarray(users)
    authors = np.unique(author_of(rooms))
    ids = {
        ("live_id",): (rooms,),
        ("user_id",): (users,),
        ("author_id",): (authors,),
        ("user_id", "author_id"): (np.repeat(users, len(authors)), np.tile(authors, len(users))),
        ("user_id", "live_id"): (np.repeat(users, len(rooms)), np.tile(rooms, len(users))),
    }
    return {key: [table(schema, key, ids[key], as_of_ms, seed, value)] for key in schema.stored}


def fill(location, as_of_ms=BEGIN_MS, rooms=ROOMS, schema=SMALL_SCHEMA, **how):
    with open_online_store(location, readonly=False) as store:
        filled = tables(schema, rooms, USERS, as_of_ms, **({"seed": 0} | how))
        store.write(schema, as_of_ms, filled, rooms, replace=True)
    return filled


def content(location):
    """Everything in the store, as bytes; without what only steers its upkeep."""
    if "://" not in location:
        with lmdb.open(location, readonly=True) as environment, environment.begin() as transaction:
            return dict(transaction.cursor())
    with redis.Redis(port=int(location.split(":")[2].split("/")[0])) as client:
        return {key: client.get(key) for key in client.keys("*") if b":refreshed:" not in key}


def run_python(code, **popen):
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, **popen)


CHILD = (
    "import os, signal, sys; import numpy as np; from beam_transforms.online_store import open_online_store; "
    "from tests.beam_transforms.stored_tables import *; R, U = np.arange(10, 16), np.arange(3)\n"
)


def client_of(location):
    return redis.Redis(port=int(location.split(":")[2].split("/")[0]))
