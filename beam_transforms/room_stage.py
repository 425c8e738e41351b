"""The stage that sees everything about a room: its windows, its semantic ids, its products."""

from collections.abc import Mapping

import numpy as np

from beam_transforms.columnar import Columns, concatenate, empty
from beam_transforms.content import PRODUCT_COLUMNS
from beam_transforms.context import context_features
from beam_transforms.histories import empty_history, fold_history, history_record
from beam_transforms.product_sequences import empty_product_state, fold_products, product_features
from beam_transforms.schema import ROOM_MEMORY_MS, HistoryCounts, RankingSchema
from beam_transforms.sid_sequences import (
    SEMANTIC_ID_COLUMNS,
    empty_semantic_id_state,
    fold_semantic_ids,
    semantic_id_features,
)
from beam_transforms.stage import Clock, Input, Stage, Tables, stored_table
from beam_transforms.statistics import empty_windows, fold_windows, live_rooms, statistic_sequences
from beam_transforms.stored_history import with_ages

_KEY = "live_id"


class RoomStage(Stage):
    """What some rooms' windows and content say to examples.

    Flows in: `examples` of the stages before, `room_windows`, `semantic_ids`, `products`, and `windows_<history>` for
    each history of rooms. Flows out: `examples` with all features, and `stored_live_id`: the records of all rooms that
    are live as of the clock's `now_ms`.

    Args:
        schema: What an example is.
        examples: The examples that flow in, without a row.
        lag_ms: How far back examples ask.
        store: Whether the online store's records are wanted.
    """

    def __init__(self, schema: RankingSchema, examples: Columns, lag_ms: int, store: bool = False) -> None:
        self._schema, self._examples, self._store = schema, examples, store
        self.histories = tuple(history for history in schema.histories if history.key == (_KEY,))
        self.lag_ms = lag_ms
        self.active_ms = ROOM_MEMORY_MS if store else 0

    @property
    def inputs(self) -> Mapping[str, Input]:
        inputs = {
            "examples": Input(self._examples, kept=False),
            "room_windows": Input(empty_windows(self._schema.metrics)),
            **{f"windows_{history.name}": Input(empty_history(history)) for history in self.histories},
        }
        if self._schema.semantic_id_length:
            rows = empty(dict.fromkeys(SEMANTIC_ID_COLUMNS, "int64"))
            inputs["semantic_ids"] = Input(rows, outside=True, key=tuple(SEMANTIC_ID_COLUMNS))
        if self._schema.product_length:
            inputs["products"] = Input(empty(PRODUCT_COLUMNS), outside=True, key=tuple(PRODUCT_COLUMNS))
        return inputs

    @property
    def tables_out(self) -> tuple[str, ...]:
        late = tuple(f"late_{name}" for name, table in self.inputs.items() if table.outside)
        return ("examples", *((stored_table((_KEY,)),) if self._store else ()), *late)

    def empty(self) -> Tables:
        state = {history.name: empty_history(history) for history in self.histories}
        state["windows"] = empty_windows(self._schema.metrics)
        if self._schema.semantic_id_length:
            state["runs"] = empty_semantic_id_state(_KEY)
        if self._schema.product_length:
            state["products"] = empty_product_state()
        return state

    def outputs(self, state: Tables, rows: Tables, before: Clock, now: Clock) -> Tables:
        examples = rows["examples"]
        features = self._features(state, rows, examples)
        opened, when = features.pop("opened_ms"), examples["timestamp_ms"]
        features["context"] = context_features(np.where(opened >= 0, opened, when), when)
        for history in self.histories:
            features[history.feature_name] = with_ages(history, features, examples["as_of_ms"])
        outputs = {"examples": examples | features}
        if self._store:
            rooms = live_rooms(self._windows(state, rows), now.now_ms)
            records = {name: rooms[name] for name in (_KEY, "author_id")} | self._features(state, rows, rooms)
            outputs[stored_table((_KEY,))] = records
        return outputs

    def fold(self, state: Tables, rows: Tables, until_ms: int) -> Tables:
        length = self._schema.sequence_length
        folded = {
            "windows": fold_windows(state["windows"], rows["room_windows"], self._schema.metrics, length, until_ms)
        }
        for history in self.histories:
            windows = rows[f"windows_{history.name}"]
            folded[history.name] = fold_history(history, state[history.name], windows, until_ms)
        if self._schema.semantic_id_length:
            longest = self._schema.semantic_id_length
            folded["runs"] = fold_semantic_ids(
                state["runs"], rows["semantic_ids"], _KEY, longest, ROOM_MEMORY_MS, until_ms
            )
        if self._schema.product_length:
            longest = self._schema.product_length
            folded["products"] = fold_products(state["products"], rows["products"], until_ms, longest)
        return folded

    def _windows(self, state: Tables, rows: Tables) -> Columns:
        return concatenate([state["windows"], rows["room_windows"]])

    def _features(self, state: Tables, rows: Tables, queries: Columns) -> Columns:
        """Everything stored of rooms, as of each query."""
        schema = self._schema
        windows = self._windows(state, rows)
        features = statistic_sequences(windows, queries, schema.metrics, schema.sequence_length)
        for history in self.histories:
            features |= history_record(history, self._history(history, state, rows), queries)
        if schema.semantic_id_length:
            features |= semantic_id_features(
                state["runs"], rows["semantic_ids"], queries, _KEY, schema.semantic_id_length, ROOM_MEMORY_MS
            )
        if schema.product_length:
            features |= product_features(state["products"], rows["products"], queries, schema.product_length)
        return features

    def _history(self, history: HistoryCounts, state: Tables, rows: Tables) -> Columns:
        return concatenate([state[history.name], rows[f"windows_{history.name}"]])
