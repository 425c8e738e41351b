"""FeatureStages: users, then authors, then rooms; the way of every event, in batch and stream."""

from collections.abc import Mapping

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from beam_transforms.author_stage import AuthorStage
from beam_transforms.columnar import Columns, empty
from beam_transforms.impressions import IMPRESSION_COLUMNS
from beam_transforms.labels import LabelPolicy
from beam_transforms.room_stage import RoomStage
from beam_transforms.run_stage import RunStage
from beam_transforms.schema import HistoryCounts, RankingSchema
from beam_transforms.sharding import ShardBy
from beam_transforms.stage import ALWAYS_MS
from beam_transforms.user_stage import UserStage


class FeatureStages(beam.PTransform):
    """`events`, `impressions`, `semantic_ids`, `products` (batches) -> `examples` and the online store's records.

    Events are sharded by user. What they add to their rooms and authors goes on as one row a window, so that a room
    with a million events a minute is no more work to its shard than any other.

    Output is a dict of PCollections of batches: `examples`, `late_<input>` for each input over unbounded input, and
    `stored_<key>` for each key of `schema.stored` if `store` is set.

    Args:
        schema: What an example is.
        policy: When a label is known, and what it is.
        shards: Number of groups of users, of authors and of rooms that can be worked on in parallel.
        store: Whether the online store's records are wanted: over bounded input of every key as of `now_ms`, over
            unbounded input of the keys whose record changed, at each window's end.
        settled_ms: See `RunStage`.
        now_ms: See `RunStage`.
        lateness_ms: See `RunStage`.
    """

    def __init__(
        self,
        schema: RankingSchema,
        policy: LabelPolicy,
        shards: int = 16,
        store: bool = False,
        settled_ms: beam.PCollection | int = -ALWAYS_MS,
        now_ms: int = ALWAYS_MS,
        lateness_ms: int = 0,
    ) -> None:
        super().__init__()
        self._schema, self._policy, self._shards, self._store = schema, policy, shards, store
        self._settled_ms, self._now_ms, self._lateness_ms = settled_ms, now_ms, lateness_ms

    @no_annotations
    def expand(self, inputs: Mapping[str, beam.PCollection]) -> dict[str, beam.PCollection]:
        user, author, room = stages(self._schema, self._policy, self._store)
        flowing = dict(inputs)
        for delay_ms, (stage, key) in enumerate(((user, "user_id"), (author, "author_id"), (room, "live_id"))):
            if stage is None:
                continue
            sharded = {
                name: flowing[name] | f"Shard_{key}_{name}" >> ShardBy(key, self._shards)
                for name in stage.inputs
                if name in flowing
            }
            run = RunStage(stage, self._settled_ms, self._now_ms, self._lateness_ms, delay_ms)
            outputs = sharded | f"Run_{key}" >> run
            flowing |= {name: outputs[name] for name in stage.tables_out}
        return {name: rows for name, rows in flowing.items() if name.startswith(("examples", "late_", "stored_"))}


def stages(
    schema: RankingSchema, policy: LabelPolicy, store: bool = False
) -> tuple[UserStage, AuthorStage | None, RoomStage]:
    """The three stages of a schema; without histories of authors there is nothing to do for theirs."""
    user = UserStage(schema, policy, store)
    examples = _user_examples(schema)
    author = AuthorStage(schema, examples, user.lag_ms, store)
    if not author.histories:
        return user, None, RoomStage(schema, examples, user.lag_ms, store)
    wider = examples | _empty_features(author.histories)
    return user, author, RoomStage(schema, wider, user.lag_ms, store)


def _user_examples(schema: RankingSchema) -> Columns:
    """The examples that flow out of a user stage, without a row."""
    ids = dict.fromkeys((*IMPRESSION_COLUMNS, "as_of_ms", "emitted_ms"), "int64")
    authors = {"entered_authors": ("int64", (schema.entered_authors_length,))}
    own = tuple(history for history in schema.histories if history.key[0] == "user_id")
    labels = dict.fromkeys(("label", "label_mask", "label_weight"), ("float32", (len(schema.tasks),)))
    return empty({**ids, **authors}) | _empty_features(own) | empty(labels)


def _empty_features(histories: tuple[HistoryCounts, ...]) -> Columns:
    return empty({history.feature_name: ("float32", (len(history.columns),)) for history in histories})
