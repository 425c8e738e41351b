"""Impressions joined with what followed them."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_transforms.columnar import Columns, distinct_rows, empty, take, to_batch, to_columns
from beam_transforms.impressions import IMPRESSION_KEY, distinct_impressions
from beam_transforms.labels import LabelPolicy
from beam_transforms.schema import EVENT_COLUMNS, Task
from beam_transforms.sharding import ShardBy

LABEL_COLUMNS = (*IMPRESSION_KEY, "emitted_ms", "label", "mask", "weight")
"""What `JoinLabels` gives: the impression's key, and the columns of `Labels`; the last three of shape (rows, K)."""


class JoinLabels(beam.PTransform):
    """Events and impressions -> batches of labels (`LABEL_COLUMNS`), all that the policy emits by the watermark.

    Input is a dict of two PCollections of batches, `events` (columns of `EVENT_COLUMNS`) and `impressions` (with the
    columns of `IMPRESSION_KEY`), bounded, in any order. Impressions that are equal in their key count once; events
    that come twice change nothing. An impression may have no row or several, see the policy; those without a row are
    counted as `labels/immature`. Within a batch, rows are ordered by time of emission, user, room, time of impression
    and weight, the largest first.

    There is one batch a shard of users, so the events of one shard's users have to fit in memory. A source without an
    end needs the policy called again and again on what it keeps, see `LabelPolicy`.

    Args:
        policy: When a label is known, and what it is.
        tasks: K tasks, at least one.
        shards: Number of groups of users that can be worked on in parallel.
        watermark_ms: All events earlier than this are there; None takes the time of the newest event.

    Raises:
        ValueError: If there is no task, or the number of shards isn't positive.
    """

    def __init__(
        self, policy: LabelPolicy, tasks: tuple[Task, ...], shards: int = 16, watermark_ms: int | None = None
    ) -> None:
        super().__init__()
        if not tasks:
            raise ValueError("tasks must hold at least one task, got none")
        if shards <= 0:
            raise ValueError(f"shards must be positive, got {shards}")
        self._policy, self._tasks, self._shards, self._watermark_ms = policy, tuple(tasks), shards, watermark_ms

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        grouped = (
            [inputs[name] | f"Shard_{name}" >> ShardBy("user_id", self._shards) for name in ("events", "impressions")]
            | beam.Flatten()
            | beam.GroupByKey()
        )
        label = _Label(self._policy, self._tasks)
        if self._watermark_ms is not None:
            labels = grouped | "Label" >> beam.ParDo(label, self._watermark_ms)
        else:
            newest = inputs["events"] | beam.Map(_newest_ms) | "Newest" >> beam.CombineGlobally(_latest)
            labels = grouped | "Label" >> beam.ParDo(label, beam.pvalue.AsSingleton(newest))
        return labels


@beam.typehints.with_output_types(pa.RecordBatch)
class _Label(beam.DoFn):
    """Labels the impressions of one shard of users."""

    def __init__(self, policy: LabelPolicy, tasks: tuple[Task, ...]) -> None:
        super().__init__()
        self._policy, self._tasks = policy, tasks

    def process(self, group: tuple[int, Iterable[pa.RecordBatch]], watermark_ms: int) -> Iterator[pa.RecordBatch]:
        batches = list(group[1])
        events = [batch for batch in batches if "kind" in batch.schema.names]
        impressions = [batch for batch in batches if "kind" not in batch.schema.names]
        if not impressions:
            return
        shown = distinct_impressions([batch.select(list(IMPRESSION_KEY)) for batch in impressions])
        happened = to_columns(events) if events else empty(EVENT_COLUMNS)
        labels = label_columns(self._policy, happened, shown, self._tasks, watermark_ms)
        count = len(shown["user_id"])
        labelled = len(distinct_rows(labels, IMPRESSION_KEY))
        beam.metrics.Metrics.counter("labels", "impressions").inc(count)
        beam.metrics.Metrics.counter("labels", "immature").inc(count - labelled)
        if labelled:
            yield to_batch(labels)


def label_columns(
    policy: LabelPolicy, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int
) -> Columns:
    """`LABEL_COLUMNS` of what a policy emits, in an order that depends on nothing but the rows.

    Args:
        policy: When a label is known, and what it is.
        events: As for `LabelPolicy.label`.
        impressions: As for `LabelPolicy.label`.
        tasks: K tasks.
        watermark_ms: All events earlier than this are there.
    """
    labels = policy.label(events, impressions, tasks, watermark_ms)
    columns = {name: impressions[name][labels.impression] for name in IMPRESSION_KEY} | {
        "emitted_ms": labels.emitted_ms,
        "label": labels.label,
        "mask": labels.mask,
        "weight": labels.weight,
    }
    keys = [columns[name] for name in ("timestamp_ms", "live_id", "user_id", "emitted_ms")]
    return take(columns, np.lexsort([-labels.weight.min(axis=1, initial=np.inf), *keys]))


def _newest_ms(batch: pa.RecordBatch) -> int:
    if not batch.num_rows:
        return 0
    return int(batch.column(batch.schema.get_field_index("timestamp_ms")).to_numpy().max())


def _latest(times: Iterable[int]) -> int:
    return max(times, default=0)
