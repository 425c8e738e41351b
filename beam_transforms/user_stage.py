"""The stage that sees all events of a user: labels, histories, and what the events add to rooms and authors."""

from collections.abc import Mapping

import numpy as np

from beam_transforms.columnar import Columns, concatenate, distinct_rows, empty, take
from beam_transforms.events import check_events
from beam_transforms.histories import (
    changed_keys,
    empty_entries,
    empty_history,
    entered_authors,
    entered_record,
    entries,
    fold_entries,
    fold_history,
    history_record,
    history_windows,
    longest_lookback_ms,
)
from beam_transforms.impressions import IMPRESSION_COLUMNS, IMPRESSION_KEY
from beam_transforms.labels import LabelPolicy
from beam_transforms.schema import EVENT_COLUMNS, WINDOW_MS, HistoryCounts, RankingSchema
from beam_transforms.stage import Clock, Input, Stage, Tables, stored_table
from beam_transforms.statistics import empty_heard, fold_heard, room_windows
from beam_transforms.stored_history import with_ages

_Key = tuple[str, ...]


class UserStage(Stage):
    """Events and impressions of some users.

    Flows in: `events` and `impressions`. Flows out:

    - `room_windows` and, for each history of rooms or authors, `windows_<history>`: what events add to them;
    - `examples`: impressions whose labels became known, with their labels and the user's features;
    - `stored_<key>`: records of the online store that changed, as of the clock's `now_ms`.

    Args:
        schema: What an example is.
        policy: When a label is known, and what it is.
        store: Whether the online store's records are wanted.
    """

    def __init__(self, schema: RankingSchema, policy: LabelPolicy, store: bool = False) -> None:
        self._schema, self._policy, self._store = schema, policy, store
        self._own = [history for history in schema.histories if history.key[0] == "user_id"]
        self._others = [history for history in schema.histories if history.key[0] != "user_id"]
        self._keys = [key for key in schema.stored if key[0] == "user_id"]
        self.lag_ms = policy.horizon_ms + policy.lookback_ms + WINDOW_MS
        self.active_ms = longest_lookback_ms(self._own) if store else 0

    @property
    def inputs(self) -> Mapping[str, Input]:
        key = tuple(EVENT_COLUMNS) if self._schema.deduplicate else ()
        impressions = empty(dict.fromkeys(IMPRESSION_COLUMNS, "int64"))
        return {
            "events": Input(empty(EVENT_COLUMNS), outside=True, key=key, check=check_events),
            "impressions": Input(impressions, outside=True, key=IMPRESSION_KEY),
        }

    @property
    def tables_out(self) -> tuple[str, ...]:
        windows = tuple(f"windows_{history.name}" for history in self._others)
        stored = tuple(stored_table(key) for key in self._keys) if self._store else ()
        return ("room_windows", *windows, "examples", *stored, "late_events", "late_impressions")

    def empty(self) -> Tables:
        histories = {history.name: empty_history(history) for history in self._own}
        return {"heard": empty_heard(), "entries": empty_entries(), **histories}

    def outputs(self, state: Tables, rows: Tables, before: Clock, now: Clock) -> Tables:
        arrived = take(rows["events"], np.flatnonzero(rows["events"]["timestamp_ms"] < now.now_ms))
        new = ~arrived["counted"]
        fresh = take(arrived, np.flatnonzero(new))
        outputs = {"room_windows": room_windows(state["heard"], arrived, self._schema.metrics, new)}
        for history in self._others:
            outputs[f"windows_{history.name}"] = history_windows(history, fresh)
        windows = {history.name: self._windows(history, state, arrived) for history in self._own}
        outputs["examples"] = self._examples(state, rows, windows, before, now)
        if self._store:
            outputs |= self._records(state, arrived, fresh, windows, before, now)
        return outputs

    def fold(self, state: Tables, rows: Tables, until_ms: int) -> Tables:
        events = rows["events"]
        folded = {
            "heard": fold_heard(state["heard"], events, self._schema.metrics, until_ms),
            "entries": fold_entries(state["entries"], entries(events), self._schema.entered_authors_length, until_ms),
        }
        for history in self._own:
            windows = history_windows(history, events)
            folded[history.name] = fold_history(history, state[history.name], windows, until_ms)
        return folded

    def counts(self, rows: Tables, outputs: Tables) -> dict[str, int]:
        impressions = len(rows["impressions"]["timestamp_ms"])
        labelled = len(distinct_rows(outputs["examples"], IMPRESSION_KEY))
        return {"impressions": impressions, "immature": impressions - labelled}

    def _windows(self, history: HistoryCounts, state: Tables, events: Columns) -> Columns:
        return concatenate([state[history.name], history_windows(history, events)])

    def _examples(self, state: Tables, rows: Tables, windows: Tables, before: Clock, now: Clock) -> Columns:
        impressions = rows["impressions"]
        labels = self._policy.label(rows["events"], impressions, self._schema.tasks, now.settled_ms)
        chosen = np.flatnonzero(labels.emitted_ms > before.settled_ms)
        queries = {name: impressions[name][labels.impression[chosen]] for name in IMPRESSION_COLUMNS}
        queries["as_of_ms"] = queries["timestamp_ms"] // WINDOW_MS * WINDOW_MS
        examples = {**queries, "emitted_ms": labels.emitted_ms[chosen]}
        length = self._schema.entered_authors_length
        examples["entered_authors"] = entered_authors(state["entries"], entries(rows["events"]), queries, length)
        for history in self._own:
            record = history_record(history, windows[history.name], queries)
            examples[history.feature_name] = with_ages(history, record, queries["as_of_ms"])
        for name in ("label", "mask", "weight"):
            column = "label" if name == "label" else f"label_{name}"
            examples[column] = getattr(labels, name)[chosen]
        return examples

    def _records(
        self, state: Tables, arrived: Columns, fresh: Columns, windows: Tables, before: Clock, now: Clock
    ) -> Tables:
        """Stored features under each key, of the keys whose record is another than at the last step."""
        records: Tables = {}
        for key in self._keys:
            histories = [history for history in self._own if history.key == key]
            keys = [take(fresh, distinct_rows(fresh, key))]
            keys += [changed_keys(history, windows[history.name], before.now_ms, now.now_ms) for history in histories]
            queries = concatenate([{name: columns[name] for name in key} for columns in keys])
            queries = take(queries, np.flatnonzero(np.all([queries[name] >= 0 for name in key], axis=0)))
            queries = take(queries, distinct_rows(queries))
            queries["as_of_ms"] = np.full(len(queries[key[0]]), now.now_ms)
            record = {name: queries[name] for name in key}
            for history in histories:
                record |= history_record(history, windows[history.name], queries)
            if key == ("user_id",):
                length = self._schema.entered_authors_length
                record |= entered_record(state["entries"], entries(arrived), queries, length)
            records[stored_table(key)] = record
        return records
