"""The stage that sees all windows of an author, from all rooms."""

from collections.abc import Mapping

import numpy as np

from beam_transforms.columnar import Columns, concatenate, distinct_rows, take
from beam_transforms.histories import changed_keys, empty_history, fold_history, history_record, longest_lookback_ms
from beam_transforms.schema import HistoryCounts, RankingSchema
from beam_transforms.stage import Clock, Input, Stage, Tables, stored_table
from beam_transforms.stored_history import with_ages


class AuthorStage(Stage):
    """What some authors' histories say to examples.

    Flows in: `examples` of the `UserStage`, and `windows_<history>` for each history of authors. Flows out: `examples`
    with these histories as of their time, and `stored_author_id`: records of the online store that changed.

    Args:
        schema: What an example is.
        examples: The examples that flow in, without a row.
        lag_ms: How far back examples ask.
        store: Whether the online store's records are wanted.
    """

    def __init__(self, schema: RankingSchema, examples: Columns, lag_ms: int, store: bool = False) -> None:
        self.histories = tuple(history for history in schema.histories if history.key == ("author_id",))
        self._examples, self._store = examples, store
        self.lag_ms = lag_ms
        self.active_ms = longest_lookback_ms(self.histories) if store else 0

    @property
    def inputs(self) -> Mapping[str, Input]:
        windows = {f"windows_{history.name}": Input(empty_history(history)) for history in self.histories}
        return {"examples": Input(self._examples, kept=False), **windows}

    @property
    def tables_out(self) -> tuple[str, ...]:
        return ("examples", *((stored_table(("author_id",)),) if self._store else ()))

    def empty(self) -> Tables:
        return {history.name: empty_history(history) for history in self.histories}

    def outputs(self, state: Tables, rows: Tables, before: Clock, now: Clock) -> Tables:
        examples = dict(rows["examples"])
        windows = {history.name: self._windows(history, state, rows) for history in self.histories}
        for history in self.histories:
            record = history_record(history, windows[history.name], examples)
            examples[history.feature_name] = with_ages(history, record, examples["as_of_ms"])
        if not self._store:
            return {"examples": examples}
        new = [take(rows[f"windows_{h.name}"], ~rows[f"windows_{h.name}"]["counted"]) for h in self.histories]
        left = [changed_keys(history, windows[history.name], before.now_ms, now.now_ms) for history in self.histories]
        authors = concatenate([{"author_id": part["author_id"]} for part in (*new, *left)])
        records = take(authors, distinct_rows(authors))
        queries = records | {"as_of_ms": np.full(len(records["author_id"]), now.now_ms)}
        for history in self.histories:
            records |= history_record(history, windows[history.name], queries)
        return {"examples": examples, stored_table(("author_id",)): records}

    def fold(self, state: Tables, rows: Tables, until_ms: int) -> Tables:
        return {
            history.name: fold_history(history, state[history.name], rows[f"windows_{history.name}"], until_ms)
            for history in self.histories
        }

    def _windows(self, history: HistoryCounts, state: Tables, rows: Tables) -> Columns:
        return concatenate([state[history.name], rows[f"windows_{history.name}"]])
