"""Examples: impressions joined with their features as of that time and with their labels."""

import abc
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import (
    Columns,
    hash_rows,
    match_rows,
    split_by_shard,
    take,
    to_batch,
    to_columns,
)
from beam_transforms.context import context_features
from beam_transforms.histories import entered_authors, history_counts
from beam_transforms.impressions import IMPRESSION_KEY, distinct_impressions
from beam_transforms.labels import LabelPolicy
from beam_transforms.schema import RankingSchema
from beam_transforms.sharding import ShardBy
from beam_transforms.statistics import event_columns, statistic_sequences, window_statistics

_Keyed = tuple[int, pa.RecordBatch]


class JoinExamples(beam.PTransform):
    """Events and impressions -> (shard, batch of examples with the columns of `schema.features`).

    Point in time: the features of an impression at t are computed from events with a timestamp < t, and from windows
    whose end is <= t. Features come from the same functions that fill the online store.

    Input is a dict of two PCollections of batches, `events` and `impressions`. Bounded input: one set of labels an
    impression at most, whatever the order of the events. Impressions whose labels aren't known by the newest event are
    left out, and counted as `immature`. Within a shard, examples are ordered by time, user and room.

    Args:
        schema: What an example is.
        policy: When a label is known, and what it is.
        shards: Number of groups that can be worked on in parallel, and of output batches.
    """

    def __init__(self, schema: RankingSchema, policy: LabelPolicy, shards: int = 16) -> None:
        super().__init__()
        self._schema, self._policy, self._shards = schema, policy, shards

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        watermark = (
            inputs["events"] | "NewestInBatch" >> beam.Map(_newest_ms) | "Newest" >> beam.CombineGlobally(_latest)
        )
        sides = {
            "user": self._grouped(inputs, "user_id")
            | "UserSide" >> beam.ParDo(_UserSide(self._schema, self._policy), beam.pvalue.AsSingleton(watermark)),
            "room": self._grouped(inputs, "live_id") | "RoomSide" >> beam.ParDo(_RoomSide(self._schema)),
        }
        if any(history.key == ("author_id",) for history in self._schema.histories):
            sides["author"] = self._grouped(inputs, "author_id") | "AuthorSide" >> beam.ParDo(_AuthorSide(self._schema))
        return (
            [
                batches | f"Shard_{name}" >> beam.FlatMap(_by_impression, self._shards).with_output_types(_Keyed)
                for name, batches in sides.items()
            ]
            | "Sides" >> beam.Flatten()
            | "Meet" >> beam.GroupByKey()
            | "Join" >> beam.FlatMapTuple(self._join).with_output_types(_Keyed)
        )

    def _grouped(self, inputs: dict[str, beam.PCollection], column: str) -> beam.PCollection:
        return (
            [batches | f"Shard_{name}_{column}" >> ShardBy(column, self._shards) for name, batches in inputs.items()]
            | f"Flatten_{column}" >> beam.Flatten()
            | f"Group_{column}" >> beam.GroupByKey()
        )

    def _join(self, shard: int, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
        by_side: dict[str, list[pa.RecordBatch]] = {}
        for batch in batches:
            by_side.setdefault(batch.schema.names[-1], []).append(batch)
        sides = [to_columns(side) for side in by_side.values()]
        labelled = [side for side in sides if "label" in side]
        if not labelled:
            return
        examples = labelled[0]
        examples = take(examples, np.lexsort([examples["live_id"], examples["user_id"], examples["timestamp_ms"]]))
        key = [examples[name] for name in IMPRESSION_KEY]
        for side in sides:
            if "label" not in side:
                rows = match_rows([side[name] for name in IMPRESSION_KEY], key)
                examples |= {name: values[rows] for name, values in side.items() if name not in IMPRESSION_KEY}
        yield shard, to_batch({feature.name: examples[feature.name] for feature in self._schema.features})


class _Side(beam.DoFn):
    """Works on all events and impressions of a shard; subclasses say what they tell about the impressions."""

    def __init__(self, schema: RankingSchema) -> None:
        super().__init__()
        self.schema = schema

    def process(self, group: tuple[int, Iterable[pa.RecordBatch]], watermark_ms: int = 0) -> Iterator[pa.RecordBatch]:
        batches = list(group[1])
        events = [batch for batch in batches if "kind" in batch.schema.names]
        impressions = [batch for batch in batches if "kind" not in batch.schema.names]
        if impressions:
            distinct = distinct_impressions(impressions)
            yield to_batch(self.features(event_columns(events, self.schema.deduplicate), distinct, watermark_ms))

    @abc.abstractmethod
    def features(self, events: Columns, impressions: Columns, watermark_ms: int) -> Columns:
        """The columns of `IMPRESSION_KEY` and those that this side adds."""

    def counts(self, events: Columns, impressions: Columns, key_column: str) -> Columns:
        return {
            history.feature_name: history_counts(events, impressions, history)
            for history in self.schema.histories
            if history.key[0] == key_column
        }


class _UserSide(_Side):
    """Everything that the events of one user tell: labels, histories, the authors entered last."""

    def __init__(self, schema: RankingSchema, policy: LabelPolicy) -> None:
        super().__init__(schema)
        self._policy = policy

    def features(self, events: Columns, impressions: Columns, watermark_ms: int) -> Columns:
        labels = self._policy.label(events, impressions, self.schema.tasks, watermark_ms)
        count = len(impressions["user_id"])
        beam.metrics.Metrics.counter("examples", "impressions").inc(count)
        beam.metrics.Metrics.counter("examples", "immature").inc(count - len(np.unique(labels.impression)))
        known = take(impressions, labels.impression)
        return (
            {name: known[name] for name in (*IMPRESSION_KEY, "author_id")}
            | {"entered_authors": entered_authors(events, known, self.schema.entered_authors_length)}
            | self.counts(events, known, "user_id")
            | {"label_weight": labels.weight, "label_mask": labels.mask, "label": labels.label}
        )


class _RoomSide(_Side):
    """Everything that the events of one room tell: its statistic sequence and its age."""

    def features(self, events: Columns, impressions: Columns, watermark_ms: int) -> Columns:
        windows = window_statistics(events, self.schema.metrics)
        sequence, mask = statistic_sequences(windows, impressions, self.schema.metrics, self.schema.sequence_length)
        opened = opening_ms(events, impressions["live_id"])
        return (
            {name: impressions[name] for name in IMPRESSION_KEY}
            | {"statistic_sequence": sequence.reshape(len(sequence), sequence[0].size), "statistic_mask": mask}
            | self.counts(events, impressions, "live_id")
            | {"context": context_features(opened, impressions["timestamp_ms"])}
        )


class _AuthorSide(_Side):
    """Everything that the events of all rooms of one author tell."""

    def features(self, events: Columns, impressions: Columns, watermark_ms: int) -> Columns:
        return {name: impressions[name] for name in IMPRESSION_KEY} | self.counts(events, impressions, "author_id")


def opening_ms(events: Columns, live_ids: np.ndarray) -> np.ndarray:
    """Time of the first event of each room asked for (its ROOM_START where the log has it); the maximum if none."""
    rooms, room = np.unique(np.concatenate([events["live_id"], live_ids]), return_inverse=True)
    first = np.full(len(rooms), np.iinfo(np.int64).max)
    np.minimum.at(first, room[: len(events["live_id"])], events["timestamp_ms"])
    return first[room[len(events["live_id"]) :]]


def _newest_ms(batch: pa.RecordBatch) -> int:
    if not batch.num_rows:
        return 0
    return int(batch.column(batch.schema.get_field_index("timestamp_ms")).to_numpy().max())


def _latest(times: Iterable[int]) -> int:
    return max(times, default=0)


def _by_impression(batch: pa.RecordBatch, shards: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    keys = [batch.column(batch.schema.get_field_index(name)).to_numpy() for name in IMPRESSION_KEY]
    yield from split_by_shard(batch, (hash_rows(keys) % np.uint64(shards)).astype(np.int64))
