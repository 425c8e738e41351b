"""What a stage of the pipeline is: pure functions over columns that batch and stream have in common."""

import abc
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from beam_transforms.columnar import Columns, concatenate, distinct_rows, take
from beam_transforms.schema import WINDOW_MS

LATENESS_MS = 60_000
"""How much later than the newest event one may come, by default."""

Tables = dict[str, Columns]

ALWAYS_MS = 2**62
"""Later than every event."""


def stored_table(key: tuple[str, ...]) -> str:
    """Name of the table of records that the online store holds under a key."""
    return "stored_" + "_".join(key)


@dataclasses.dataclass(frozen=True)
class Clock:
    """Where a stage stands in event time.

    Attributes:
        now_ms: Everything earlier has arrived, unless it is late.
        settled_ms: Nothing earlier is accepted any more: `now_ms` less the allowed lateness.
    """

    now_ms: int = -ALWAYS_MS
    settled_ms: int = -ALWAYS_MS


@dataclasses.dataclass(frozen=True)
class Input:
    """One of the tables that flow into a stage.

    Attributes:
        empty: The table without a row.
        outside: Whether rows come from outside, where they may come late or twice, not from another stage.
        key: Rows that are equal in these columns are one row, of those from outside the least; () where each counts.
        kept: Whether rows are kept until the stage folds them. Questions are answered and gone.
        check: Raises ValueError for rows that can't be counted.
    """

    empty: Columns
    outside: bool = False
    key: tuple[str, ...] = ()
    kept: bool = True
    check: Callable[[Columns], None] | None = None


class Stage(abc.ABC):
    """Work on all rows of a shard of keys, in pieces of event time.

    Its state holds what is known of rows before a frontier; rows since then are kept as they are. The law that makes
    batch and stream equal: what `outputs` says doesn't depend on where the frontier is, on the order of rows, or on how
    many steps the clock took.

    Attributes:
        lag_ms: How far the frontier stays behind `Clock.settled_ms`, so that questions about that time can be answered.
        active_ms: How long after the last row time alone may change what flows out.
    """

    lag_ms: int = 0
    active_ms: int = 0

    @property
    @abc.abstractmethod
    def inputs(self) -> Mapping[str, Input]:
        """The tables that flow in; each has the column `timestamp_ms`, except those that aren't kept."""

    @property
    @abc.abstractmethod
    def tables_out(self) -> tuple[str, ...]:
        """Names of the tables that may flow out, with `late_<input>` for each input from outside."""

    @abc.abstractmethod
    def empty(self) -> Tables:
        """The state before the first row."""

    @abc.abstractmethod
    def outputs(self, state: Tables, rows: Tables, before: Clock, now: Clock) -> Tables:
        """What flows out when the clock goes from `before` to `now`.

        Args:
            state: What is known of rows before the frontier.
            rows: Rows since the frontier, and the questions that have just come. The column `counted` of rows says
                which were there, and earlier than `before.now_ms`, the last time.
        """

    @abc.abstractmethod
    def fold(self, state: Tables, rows: Tables, until_ms: int) -> Tables:
        """The state at the frontier `until_ms`, a multiple of the window's length."""

    def counts(self, rows: Tables, outputs: Tables) -> dict[str, int]:
        """What is worth counting of a bounded input, by name."""
        return {}

    def waits(self, state: "StageState") -> bool:
        """Whether something may flow out of a later step although nothing flows in."""
        kept = any(len(rows["timestamp_ms"]) for rows in state.rows.values())
        return kept or state.clock.now_ms - state.active_ms <= self.active_ms


@dataclasses.dataclass(frozen=True)
class StageState:
    """A stage between two steps of its clock.

    Attributes:
        state: What is known of rows before the frontier.
        rows: Rows since the frontier.
        clock: The last step.
        active_ms: The last step at which something flowed in.
    """

    state: Tables
    rows: Tables
    clock: Clock = Clock()
    active_ms: int = -ALWAYS_MS

    @staticmethod
    def first(stage: Stage) -> "StageState":
        rows = {name: _uncounted(table.empty) for name, table in stage.inputs.items() if table.kept}
        return StageState(stage.empty(), rows)


def advance(
    stage: Stage, before: StageState, arrived: Mapping[str, list[Columns]], now_ms: int, lateness_ms: int
) -> tuple[StageState, Tables]:
    """One step of a stage's clock.

    Args:
        before: The stage after its last step.
        arrived: New rows of each input, in any order.
        now_ms: The watermark: a multiple of the window's length.
        lateness_ms: The allowed lateness.

    Returns:
        The stage after this step, and what flows out. Rows that were too late are among it as `late_<input>`.
    """
    now = Clock(now_ms, now_ms - lateness_ms)
    rows, late = _accept(stage, before, arrived)
    outputs = stage.outputs(before.state, rows, before.clock, now) | late
    frontier = (now.settled_ms - stage.lag_ms) // WINDOW_MS * WINDOW_MS
    kept = {}
    for name, table in stage.inputs.items():
        if table.kept:
            kept[name] = take(rows[name], np.flatnonzero(rows[name]["timestamp_ms"] >= frontier))
            kept[name]["counted"] = kept[name]["timestamp_ms"] < now_ms
    active_ms = max([before.active_ms, *_newest_ms(stage, arrived)], default=before.active_ms)
    active_ms = max(active_ms, now_ms) if any(arrived.values()) else active_ms
    return StageState(stage.fold(before.state, rows, frontier), kept, now, active_ms), outputs


def run_once(
    stage: Stage, arrived: Mapping[str, list[Columns]], settled_ms: int, now_ms: int = ALWAYS_MS
) -> tuple[Tables, dict[str, int]]:
    """What flows out of a stage when all rows are there: the whole of a bounded input in one step; and its counts."""
    before = StageState.first(stage)
    rows, _ = _accept(stage, before, arrived)
    outputs = stage.outputs(before.state, rows, before.clock, Clock(now_ms, settled_ms))
    return outputs, stage.counts(rows, outputs)


def split_late(rows: Columns, settled_ms: int) -> tuple[Columns, Columns]:
    """The rows that came in time, and those that came too late."""
    late = rows["timestamp_ms"] < settled_ms
    return take(rows, np.flatnonzero(~late)), take(rows, np.flatnonzero(late))


def _newest_ms(stage: Stage, arrived: Mapping[str, list[Columns]]) -> list[int]:
    """The newest time of each batch of rows that are kept: a batch may reach far beyond the step that it comes in."""
    kept = [table for name, table in arrived.items() if stage.inputs[name].kept]
    return [int(rows["timestamp_ms"].max()) for batches in kept for rows in batches if len(rows["timestamp_ms"])]


def _accept(stage: Stage, before: StageState, arrived: Mapping[str, list[Columns]]) -> tuple[Tables, Tables]:
    rows: Tables = {}
    late: Tables = {}
    for name, table in stage.inputs.items():
        for batch in arrived.get(name, []):
            _require_columns(name, batch, table.empty)
        new = concatenate([table.empty, *arrived.get(name, [])])
        if table.check is not None:
            table.check(new)
        if not table.kept:
            rows[name] = new
            continue
        if table.outside:
            new, too_late = split_late(new, before.clock.settled_ms)
            if len(too_late["timestamp_ms"]):
                late[f"late_{name}"] = too_late
        others = [column for column in table.empty if column not in table.key] if table.key else []
        if others:
            # Of rows that differ elsewhere the least is taken, not the one that came first.
            new = take(new, np.lexsort([new[column] for column in others]))
        both = concatenate([before.rows[name], _uncounted(new)])
        if others and table.outside:
            # Also of those that came at an earlier step: nothing is said of a row while one from outside may yet come.
            order = np.lexsort([~both["counted"], *(both[column] for column in others)])
            rows[name] = take(both, np.sort(order[distinct_rows(take(both, order), table.key)]))
        else:
            # What was there first stays: it has been counted.
            rows[name] = take(both, distinct_rows(both, table.key)) if table.key else both
    return rows, late


def _require_columns(name: str, rows: Columns, expected: Columns) -> None:
    for column, values in expected.items():
        found = rows.get(column)
        if found is None or found.dtype != values.dtype or found.shape[1:] != values.shape[1:]:
            got = "no such column" if found is None else f"{found.dtype} with rows of shape {found.shape[1:]}"
            raise ValueError(
                f"{name}: the column {column!r} must be {values.dtype} with rows of shape {values.shape[1:]}, got {got}"
            )


def _uncounted(rows: Columns) -> Columns:
    return rows | {"counted": np.zeros(len(rows["timestamp_ms"]), dtype=bool)}
