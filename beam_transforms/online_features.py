"""Features of all users and live rooms as of one time, for the online store."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import Columns, distinct_rows, to_batch, to_columns
from beam_transforms.examples import opening_ms
from beam_transforms.histories import entered_authors, history_counts
from beam_transforms.online_store import OnlineStore
from beam_transforms.schema import EventKind, RankingSchema
from beam_transforms.sharding import ShardBy
from beam_transforms.statistics import event_columns, statistic_sequences, window_statistics

_SILENT_MS = 600_000


class WriteOnlineFeatures(beam.PTransform):
    """Batches of events -> the online store at `path`, with the features as of `as_of_ms`.

    Only events before that time are seen, by the same functions that compute the features of examples: a request at
    that time gets the features that an impression at that time has.

    A room is live if it has opened and not ended. One without ROOM_START (no metadata) is live if anything happened in
    it within the last ten minutes.

    Args:
        path: Folder of the store; its content is replaced in one transaction.
        schema: What is stored.
        as_of_ms: The time.
        shards: Number of groups that can be worked on in parallel.
    """

    def __init__(self, path: Path, schema: RankingSchema, as_of_ms: int, shards: int = 16) -> None:
        super().__init__()
        self._path, self._schema, self._as_of_ms, self._shards = Path(path), schema, as_of_ms, shards

    def expand(self, events: beam.PCollection) -> beam.PCollection:
        earlier = events | "Earlier" >> beam.Map(self._earlier).with_output_types(pa.RecordBatch)
        by_first_column: dict[str, list[tuple[str, ...]]] = {}
        for key in self._schema.stored:
            by_first_column.setdefault(key[0], []).append(key)
        tables = [
            earlier
            | f"Shard_{column}" >> ShardBy(column, self._shards)
            | f"Group_{column}" >> beam.GroupByKey()
            | f"Features_{column}" >> beam.FlatMap(self._features, keys).with_output_types(tuple[str, pa.RecordBatch])
            for column, keys in by_first_column.items()
        ]
        return (
            tables
            | beam.Flatten()
            | "OneWriter"
            >> beam.Map(lambda keyed: (0, keyed)).with_output_types(tuple[int, tuple[str, pa.RecordBatch]])
            | beam.GroupByKey()
            | beam.MapTuple(self._write)
        )

    def _earlier(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        times = batch.column(batch.schema.get_field_index("timestamp_ms")).to_numpy()
        return batch.take(pa.array(np.flatnonzero(times < self._as_of_ms)))

    def _features(
        self, group: tuple[int, Iterable[pa.RecordBatch]], keys: list[tuple[str, ...]]
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        events = event_columns(list(group[1]), self._schema.deduplicate)
        for key in keys:
            queries = self._queries(events, key)
            features: Columns = {}
            for feature in self._schema.stored[key]:
                features |= self._feature(events, queries, feature.name)
            yield "/".join(key), to_batch({name: queries[name] for name in key} | features)

    def _queries(self, events: Columns, key: tuple[str, ...]) -> Columns:
        rows = live_rooms(events, self._as_of_ms) if key == ("live_id",) else distinct_rows(events, key)
        rows = rows[np.all([events[name][rows] >= 0 for name in key], axis=0)]
        queries = {name: events[name][rows] for name in {*key, "author_id"}}
        return queries | {"timestamp_ms": np.full(len(rows), self._as_of_ms)}

    def _feature(self, events: Columns, queries: Columns, name: str) -> Columns:
        for history in self._schema.histories:
            if name == history.feature_name:
                return {name: history_counts(events, queries, history)}
        if name == "entered_authors":
            return {name: entered_authors(events, queries, self._schema.entered_authors_length)}
        if name == "opened_ms":
            return {name: opening_ms(events, queries["live_id"])}
        if name == "statistic_sequence":
            windows = window_statistics(events, self._schema.metrics)
            sequence, mask = statistic_sequences(windows, queries, self._schema.metrics, self._schema.sequence_length)
            return {name: sequence.reshape(len(sequence), self._schema.feature(name).size), "statistic_mask": mask}
        return {name: queries[name]} if name in queries else {}

    def _write(self, _key: int, tables: Iterable[tuple[str, pa.RecordBatch]]) -> int:
        by_key: dict[tuple[str, ...], list[Columns]] = {}
        for name, batch in tables:
            by_key.setdefault(tuple(name.split("/")), []).append(to_columns([batch]))
        store = OnlineStore(self._path, readonly=False)
        try:
            store.replace(self._schema, self._as_of_ms, by_key)
        finally:
            store.close()
        return sum(len(columns["live_id"]) for columns in by_key.get(("live_id",), []))


def live_rooms(events: Columns, as_of_ms: int) -> np.ndarray:
    """Row numbers of one event of each room that is live at `as_of_ms`, given its events before that time."""
    rooms, first_row, room = np.unique(events["live_id"], return_index=True, return_inverse=True)
    newest = np.zeros(len(rooms), dtype=np.int64)
    np.maximum.at(newest, room, events["timestamp_ms"])
    opened = np.isin(rooms, events["live_id"][events["kind"] == EventKind.ROOM_START])
    ended = np.isin(rooms, events["live_id"][events["kind"] == EventKind.ROOM_END])
    return first_row[~ended & (opened | (newest >= as_of_ms - _SILENT_MS))]
