"""The examples of a log as a stream gives them: labels, features as of then, and when each is there to learn from."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from beam_transforms.columnar import Columns, concatenate, take, to_columns
from beam_transforms.impressions import IMPRESSION_COLUMNS
from beam_transforms.labels import FastWindow, LabelPolicy
from beam_transforms.local_stages import LocalStages
from beam_transforms.schema import WINDOW_MS, EventKind, RankingSchema
from beam_transforms.sources.source import DeadLetter, Source
from tfx_pipeline.taste_change.config import NOON_MS, TasteChangeConfig

TASKS = ("ctr", "evtr", "ltr", "cmtr")
"""What the ranker learns: what is frequent enough, and known soon enough, to be measured in windows of 30 s."""


@dataclasses.dataclass(frozen=True)
class TasteChangeExamples:
    """B examples in the order of their impressions.

    Attributes:
        schema: What they hold.
        columns: `schema.features` by name, (B, ...).
        shown: int64 (B,), the window of the impression, counted from noon: 0 is the first one after it.
        learned: int64 (B,), the number of the window at whose begin the label has arrived: what is learned at noon + 30
            n s has the number n.
        answered: int64 (B,), the newest number n whose model answers at the time of the impression.
    """

    schema: RankingSchema
    columns: Columns
    shown: np.ndarray
    learned: np.ndarray
    answered: np.ndarray

    def rows(self, which: np.ndarray) -> Columns:
        """The examples that a mask (B,) tells."""
        return take(self.columns, np.flatnonzero(which))

    def labels(self, task: str) -> np.ndarray:
        """(B,) labels of a task."""
        return self.columns["label"][:, self.schema.task_names.index(task)]


def taste_change_examples(source: Source, config: TasteChangeConfig) -> TasteChangeExamples:
    """Takes a log through the stages of the stream, in memory.

    Features are those that the online store held at the time of the impression: both models are asked with them.
    """
    schema = dataclasses.replace(
        source.schema,
        tasks=tuple(task for task in source.schema.tasks if task.name in TASKS),
        sequence_length=2,  # the ranker has no forecasters here: what a room shows next isn't what changes
        horizon=1,
    )
    end_ms = NOON_MS + 1000 * config.after_s
    found = streamed_examples(log_tables(source), schema, FastWindow(config.label_s), end_ms)
    # Labels of the last window or two don't all arrive before the log ends.
    whole_ms = (end_ms - round(1000 * config.label_s)) // WINDOW_MS * WINDOW_MS
    found = take(found, found["timestamp_ms"] < whole_ms)
    since_ms = found["timestamp_ms"] - NOON_MS
    labelled_ms = found["emitted_ms"] - NOON_MS + round(1000 * config.lateness_s)
    return TasteChangeExamples(
        schema=schema,
        columns={feature.name: found[feature.name] for feature in schema.features},
        shown=since_ms // WINDOW_MS,
        learned=-(-labelled_ms // WINDOW_MS),
        answered=(since_ms - round(1000 * config.serving_s)) // WINDOW_MS,
    )


def log_tables(source: Source) -> dict[str, list[Columns]]:
    """All `events` and `impressions` of a log, as the stages take them."""
    events = concatenate(
        [
            to_columns([item])
            for partition in source.partitions()
            for item in source.read(partition)
            if not isinstance(item, DeadLetter)
        ]
    )
    shown = take({name: events[name] for name in IMPRESSION_COLUMNS}, events["kind"] == EventKind.EXPOSURE)
    return {"events": [events], "impressions": [shown]}


def streamed_examples(
    tables: Mapping[str, list[Columns]], schema: RankingSchema, policy: LabelPolicy, end_ms: int
) -> Columns:
    """What the stages of the stream make of a log until `end_ms`.

    They give the same whatever steps they take, so they take one.

    Returns:
        `schema.features` by name, (B, ...), and `emitted_ms`, int64 (B,), when each example's labels were known; in the
        order of the impressions.
    """
    found = LocalStages(schema, policy).step(tables, end_ms)["examples"]
    found = take(found, np.lexsort([found["live_id"], found["user_id"], found["timestamp_ms"]]))
    shaped = {feature.name: found[feature.name].reshape(-1, *feature.shape) for feature in schema.features}
    return {**shaped, "emitted_ms": found["emitted_ms"]}
