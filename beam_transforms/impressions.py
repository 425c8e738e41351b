"""Impressions: who was shown which room when. Live logs say so; from a chat log they are derived."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import Columns, distinct_rows, hash_rows, take, to_batch, to_columns
from beam_transforms.schema import EventKind
from beam_transforms.sharding import ShardBy

IMPRESSION_COLUMNS = ("user_id", "author_id", "live_id", "timestamp_ms")
IMPRESSION_KEY = ("user_id", "live_id", "timestamp_ms")

_MINUTE_MS = 60_000


class ExposureImpressions(beam.PTransform):
    """Batches of events -> batches of impressions (`IMPRESSION_COLUMNS`): one for each EXPOSURE."""

    def expand(self, events: beam.PCollection) -> beam.PCollection:
        return events | beam.Map(_exposures).with_output_types(pa.RecordBatch)


def _exposures(batch: pa.RecordBatch) -> pa.RecordBatch:
    kinds = batch.column(batch.schema.get_field_index("kind")).to_numpy()
    rows = pa.array(np.flatnonzero(kinds == EventKind.EXPOSURE))
    return batch.select(list(IMPRESSION_COLUMNS)).take(rows)


class ActiveUserImpressions(beam.PTransform):
    """Batches of events -> batches of impressions for logs that tell who wrote but not who watched.

    On every full minute of a room's life, each user who wrote in the ten minutes before is one impression. Of these, at
    most `limit` are kept: those whose hash of (seed, user, room, time) is smallest, so that the choice is the same in
    every run and whatever the order of the events.

    Args:
        limit: Most impressions to keep.
        seed: Seed of the choice.
        active_minutes: How long a user who wrote counts as there.
        shards: Number of groups of rooms that can be worked on in parallel.

    Raises:
        ValueError: If `limit` or `active_minutes` isn't positive.
    """

    def __init__(self, limit: int, seed: int, active_minutes: int = 10, shards: int = 16) -> None:
        super().__init__()
        if limit <= 0 or active_minutes <= 0:
            raise ValueError(f"limit and active_minutes must be positive, got {limit} and {active_minutes}")
        self._limit, self._seed, self._active_minutes, self._shards = limit, seed, active_minutes, shards

    def expand(self, events: beam.PCollection) -> beam.PCollection:
        candidates = (
            events
            | ShardBy("live_id", self._shards)
            | beam.GroupByKey()
            | "Candidates" >> beam.MapTuple(self._candidates).with_output_types(pa.RecordBatch)
        )
        largest_kept = (
            candidates
            | "Hash" >> beam.Map(self._hash)
            | "LargestKept" >> beam.CombineGlobally(_SmallestHashes(self._limit))
        )
        return candidates | "Sample" >> beam.Map(self._sample, beam.pvalue.AsSingleton(largest_kept)).with_output_types(
            pa.RecordBatch
        )

    def _candidates(self, _shard: int, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        return to_batch(active_users(to_columns(list(batches)), self._active_minutes))

    def _hash(self, batch: pa.RecordBatch) -> np.ndarray:
        columns = to_columns([batch])
        return hash_rows([columns[name] for name in IMPRESSION_KEY], self._seed)

    def _sample(self, batch: pa.RecordBatch, largest_kept: int) -> pa.RecordBatch:
        return batch.take(pa.array(np.flatnonzero(self._hash(batch) <= np.uint64(largest_kept))))


def active_users(events: Columns, active_minutes: int) -> Columns:
    """On every full minute until the room's last comment: each user with a comment in [t - active_minutes, t).

    A log of comments doesn't say when a room closed, so its last comment stands for that. Which impressions there are
    depends on it; their features and labels don't.

    Returns:
        `IMPRESSION_COLUMNS`, each of shape (candidates,).
    """
    comments = take(events, np.flatnonzero(events["kind"] == EventKind.COMMENT))
    minute = comments["timestamp_ms"] // _MINUTE_MS
    rooms, room = np.unique(comments["live_id"], return_inverse=True)
    last = np.zeros(len(rooms), dtype=np.int64)
    np.maximum.at(last, room, comments["timestamp_ms"])
    written = {name: comments[name] for name in ("user_id", "author_id", "live_id")} | {"minute": minute}
    rows = distinct_rows(written)
    # A comment within minute m counts for the full minutes m + 1 .. m + active_minutes: those t with m in the
    # active_minutes whole minutes before t.
    later = np.arange(1, active_minutes + 1)
    candidates = {name: np.repeat(comments[name][rows], active_minutes) for name in ("user_id", "author_id", "live_id")}
    candidates["timestamp_ms"] = ((minute[rows][:, None] + later) * _MINUTE_MS).reshape(-1)
    alive = candidates["timestamp_ms"] <= np.repeat(last[room[rows]], active_minutes)
    candidates = take(candidates, np.flatnonzero(alive))
    return take(candidates, distinct_rows(candidates, IMPRESSION_KEY))


class _SmallestHashes(beam.CombineFn):
    """The `limit`-th smallest hash, or the largest possible one if there are no more than `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(0, dtype=np.uint64)

    def add_input(self, accumulator: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        return self.merge_accumulators([accumulator, hashes])

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        hashes = np.concatenate(list(accumulators))
        return hashes if len(hashes) <= self._limit else np.partition(hashes, self._limit)[: self._limit + 1]

    def extract_output(self, hashes: np.ndarray) -> int:
        if len(hashes) <= self._limit:
            return int(np.iinfo(np.uint64).max)
        return int(np.partition(hashes, self._limit - 1)[self._limit - 1])


def distinct_impressions(batches: Iterator[pa.RecordBatch] | list[pa.RecordBatch]) -> Columns:
    """Columns of all batches together, one row for each (user, room, time), ordered by time, user and room."""
    impressions = to_columns(list(batches))
    impressions = take(impressions, distinct_rows(impressions, IMPRESSION_KEY))
    return take(
        impressions,
        np.lexsort([impressions["live_id"], impressions["user_id"], impressions["timestamp_ms"]]),
    )
