"""Examples: impressions joined with their features as of that time and with their labels."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.typehints.decorators import no_annotations

from beam_transforms.columnar import hash_rows, split_by_shard, take, to_batch, to_columns
from beam_transforms.feature_stages import FeatureStages
from beam_transforms.impressions import IMPRESSION_KEY
from beam_transforms.labels import LabelPolicy
from beam_transforms.schema import RankingSchema

_Keyed = tuple[int, pa.RecordBatch]


class JoinExamples(beam.PTransform):
    """Events and impressions -> (shard, batch of examples with the columns of `schema.features`).

    Point in time: the features of an impression at t are those as of the end of the last window that had ended at t,
    so they come from events before that; they are what the online store held at t. Only `context` knows t itself.

    Input is a dict of PCollections of batches: `events`, `impressions` and, as far as the schema has them,
    `semantic_ids` and `products`.

    Every label that the policy knows by the newest row counts, whatever the order of the events. Impressions whose
    labels aren't known then are left out, and counted as `immature`. Within a shard, examples are ordered by time, user
    and room.

    Bounded input only: over a stream, `FeatureStages` gives the same examples as their labels become final, and
    `streaming.build_stream` is the whole pipeline around it.

    Args:
        schema: What an example is.
        policy: When a label is known, and what it is.
        shards: Number of groups that can be worked on in parallel, and of output batches.
    """

    def __init__(self, schema: RankingSchema, policy: LabelPolicy, shards: int = 16) -> None:
        super().__init__()
        self._schema, self._policy, self._shards = schema, policy, shards

    @no_annotations
    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        told = [
            rows | f"NewestInBatch_{name}" >> beam.Map(_newest_ms)
            for name, rows in inputs.items()
            if name != "impressions"
        ]
        watermark = told | beam.Flatten() | "Newest" >> beam.CombineGlobally(_latest)
        stages = FeatureStages(self._schema, self._policy, self._shards, settled_ms=watermark)
        return (
            (inputs | stages)["examples"]
            | "ShardImpressions" >> beam.FlatMap(_by_impression, self._shards).with_output_types(_Keyed)
            | "Meet" >> beam.GroupByKey()
            | "Order" >> beam.MapTuple(self._ordered).with_output_types(_Keyed)
        )

    def _ordered(self, shard: int, batches: Iterable[pa.RecordBatch]) -> _Keyed:
        examples = to_columns(list(batches))
        positives = examples["label"].sum(axis=1)
        keys = [positives, *(examples[name] for name in ("emitted_ms", "live_id", "user_id", "timestamp_ms"))]
        order = np.lexsort(keys)
        return shard, to_batch(take({f.name: examples[f.name] for f in self._schema.features}, order))


def _newest_ms(batch: pa.RecordBatch) -> int:
    if not batch.num_rows:
        return 0
    return int(batch.column(batch.schema.get_field_index("timestamp_ms")).to_numpy().max())


def _latest(times: Iterable[int]) -> int:
    return max(times, default=0)


def _by_impression(batch: pa.RecordBatch, shards: int) -> Iterator[_Keyed]:
    keys = [batch.column(batch.schema.get_field_index(name)).to_numpy() for name in IMPRESSION_KEY]
    yield from split_by_shard(batch, (hash_rows(keys) % np.uint64(shards)).astype(np.int64))
