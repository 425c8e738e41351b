"""A stage's state as bytes: Arrow tables, nothing that could run."""

import io
import json

from beam_transforms.columnar import Columns, to_batch, to_columns
from beam_transforms.events import RecordBatchCoder
from beam_transforms.stage import Clock, Stage, StageState

_CODER = RecordBatchCoder()


def encode_state(state: StageState) -> bytes:
    """The inverse of `decode_state`."""
    tables = [*state.state.values(), *state.rows.values()]
    parts = [_CODER.encode(to_batch(table)) for table in tables]
    head = {
        "now_ms": state.clock.now_ms,
        "settled_ms": state.clock.settled_ms,
        "active_ms": state.active_ms,
        "sizes": [len(part) for part in parts],
    }
    line = json.dumps(head).encode()
    return b"".join([len(line).to_bytes(4, "big"), line, *parts])


def decode_state(stage: Stage, data: bytes | None) -> StageState:
    """A stage as it was encoded; the first state for None.

    Raises:
        ValueError: If the bytes are of another stage; the tables or columns that differ are named.
    """
    first = StageState.first(stage)
    if data is None:
        return first
    stream = io.BytesIO(data)
    head = json.loads(stream.read(int.from_bytes(stream.read(4), "big")))
    names = [*first.state, *first.rows]
    if len(head["sizes"]) != len(names):
        raise ValueError(f"a stored state has {len(head['sizes'])} tables, expected {names}: it is of another schema")
    tables = [to_columns([_CODER.decode(stream.read(size))]) for size in head["sizes"]]
    for name, table, expected in zip(names, tables, (*first.state.values(), *first.rows.values()), strict=True):
        _require_same(name, table, expected)
    state = dict(zip(first.state, tables, strict=False))
    rows = dict(zip(first.rows, tables[len(state) :], strict=True))
    return StageState(state, rows, Clock(head["now_ms"], head["settled_ms"]), head["active_ms"])


def _require_same(name: str, table: Columns, expected: Columns) -> None:
    found = {column: (values.dtype.str, values.shape[1:]) for column, values in table.items()}
    wanted = {column: (values.dtype.str, values.shape[1:]) for column, values in expected.items()}
    if found != wanted:
        raise ValueError(f"a stored state's table {name!r} has the columns {found}, expected {wanted}: another schema")
