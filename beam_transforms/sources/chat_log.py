"""Reads chat logs: CSV files of one message a row."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_transforms.schema import CHAT_SCHEMA, EventKind
from beam_transforms.sources.event_accumulator import UNKNOWN_TIME, EventAccumulator
from beam_transforms.sources.source import DeadLetter, Partition, Source, SourceError, printable
from beam_transforms.sources.tables.table import Column, RowCheck, Rows, missing_columns, read_header, read_table
from beam_transforms.sources.tables.timestamps import MAX_TIMESTAMP_MS
from beam_transforms.sources.tables.value_types import AMOUNT, COUNT, DAY, FLAG, ID, WORDS

AUTHOR_ID = 0
"""Author of every session: a chat log is one author's."""

MESSAGE_COLUMNS = (
    Column("live_id", ID, ("session_id",)),
    Column("date", DAY),
    Column("offset_s", AMOUNT),
    Column("user_id", ID, ("user",)),
)
_OPTIONAL = (
    Column("mod", FLAG, default=False, required=False),
    Column("sub", FLAG, default=False, required=False),
    Column("n_chars", COUNT, default=0, required=False),
    Column("emotes", WORDS, required=False),
)
_TOLD_BY = {
    "mod": EventKind.MODERATOR_COMMENT,
    "sub": EventKind.SUBSCRIBER_COMMENT,
    "emotes": EventKind.EMOTE,
}
_COLUMNS = (*MESSAGE_COLUMNS, *_OPTIONAL)
_WANTED = (
    "expected a folder with chat logs: *.csv or *.csv.gz with the columns "
    f"{', '.join(c.names[0] for c in MESSAGE_COLUMNS)} "
    f"(and, as far as known, {', '.join(c.names[0] for c in _OPTIONAL)})"
)


class ChatLogSource(Source):
    """Events of a folder of chat logs (`*.csv`, `*.csv.gz`).

    A file is a log if it has the columns session_id, date (of the session's start), offset_s (seconds since the
    start) and user; mod, sub (0 or 1), n_chars (characters) and emotes (names between spaces) add to it. Other CSV
    files, and those whose header can't be read, are skipped with a note. The room is the session, the author
    `AUTHOR_ID`, and the time is the midnight (UTC) of the date plus the offset: the logs don't say at which hour a
    session began.

    A message is a COMMENT, with a SUBSCRIBER_COMMENT, a MODERATOR_COMMENT and an EMOTE beside it where they apply. A
    session gives a ROOM_START at offset 0 in each file that has messages of it; that a session is over isn't told.

    Raises:
        SourceError: If the folder isn't one, or no file in it is a chat log.
    """

    def __init__(self, folder: Path) -> None:
        self.schema = CHAT_SCHEMA
        self.notes: tuple[str, ...] = ()
        self._files: list[Path] = []
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder; {_WANTED}")
        told: set[str] = set()
        skipped: list[str] = []
        for path in sorted(path for path in folder.iterdir() if path.name.endswith((".csv", ".csv.gz"))):
            problem, header = _problem(path)
            if problem:
                skipped.append(printable(f"{path.name} is skipped: {problem}"))
            else:
                self._files.append(path)
                told.update(header)
        if not self._files:
            raise SourceError(f"{folder}: {_WANTED}; {'; '.join(skipped) or 'there is no CSV file'}")
        self.notes += tuple(skipped)
        for column in _OPTIONAL:
            if column.name not in told:
                self._do_without(column.name)

    def _do_without(self, column: str) -> None:
        before = self.schema
        if column in _TOLD_BY:
            self.schema = before.without([_TOLD_BY[column]])
        else:
            metrics = tuple(metric for metric in before.metrics if metric.name != "character")
            self.schema = dataclasses.replace(before, metrics=metrics)
        lost = [name for name in before.metric_names if name not in self.schema.metric_names]
        self.notes += (f"no log has a column {column}: metric {', '.join(lost)} is off",)

    def partitions(self) -> list[Partition]:
        return [Partition(str(path), "messages") for path in self._files]

    def read(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        if partition not in self.partitions():
            raise ValueError(f"{partition} is not one of this source's partitions; take them from partitions()")
        started: set[int] = set()
        for rows in read_table(Path(partition.path), _COLUMNS, MESSAGE_TIMES):
            if isinstance(rows, DeadLetter):
                yield rows
                continue
            times = message_times(rows)
            rows["author_id"] = np.full(len(times), AUTHOR_ID)
            events = EventAccumulator()
            events.add(EventKind.COMMENT, rows, times, rows.get("n_chars", 0.0))
            for column, kind in _TOLD_BY.items():
                if column in rows:
                    # emotes holds their number, mod and sub 0 or 1.
                    events.add(kind, rows, np.where(rows[column], times, UNKNOWN_TIME), rows[column].astype(np.float32))
            sessions, first = np.unique(rows["live_id"], return_index=True)
            first = first[[session not in started for session in sessions.tolist()]]
            started.update(sessions.tolist())
            events.add(
                EventKind.ROOM_START, {name: values[first] for name, values in rows.items()}, rows["date"][first]
            )
            yield from events.batches()


def message_times(rows: Rows) -> np.ndarray:
    """When the messages were written, milliseconds since the epoch: the session's date and the offset in it."""
    return rows["date"] + np.rint(rows["offset_s"] * 1000).astype(np.int64)


MESSAGE_TIMES = RowCheck(
    "date and offset_s should give a time before 2100", lambda rows: message_times(rows) < MAX_TIMESTAMP_MS
)


def _problem(path: Path) -> tuple[str, list[str]]:
    """Why a file isn't read as a log, or ""; and its columns."""
    if path.suffix == ".gz" and path.with_suffix("").is_file():
        return f"{path.stem} is read", []
    try:
        header = read_header(path)
    except SourceError as error:
        return str(error).removeprefix(f"{path}: "), []
    if header is None:
        return "it is empty (0 bytes)", []
    missing = missing_columns(header, MESSAGE_COLUMNS)
    return f"it lacks the columns {', '.join(missing)} (it has {', '.join(header)})" if missing else "", header
