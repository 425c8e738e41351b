"""A source that is a folder of tables, one file each."""

import abc
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from beam_transforms.schema import LIVE_SCHEMA, EventKind
from beam_transforms.sources.room_authors import RoomAuthors
from beam_transforms.sources.source import DeadLetter, Partition, Source, SourceError
from beam_transforms.sources.tables.table import Column, RowCheck, Rows, find_columns, read_header, read_table

UNKNOWN_AUTHOR = 0
"""Author of an event in a room for which no table names one."""

SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""What a table's file may end in, whatever the data set's own file ends in."""

_LOGGER = logging.getLogger(__name__)


def add_authors(rows: Rows, authors: RoomAuthors | None) -> int:
    """Puts the author of each row's room into the rows, unless `authors` is None; says for how many none is known."""
    if authors is None:
        return 0
    found, known = authors.find(rows["live_id"])
    rows["author_id"] = np.where(known, found, UNKNOWN_AUTHOR)
    return int((~known).sum())


def warn_of_unknown_authors(path: str, rows: int) -> None:
    _LOGGER.warning(
        "%s: %d rows are of rooms for which no table names an author; they have author_id %d",
        path,
        rows,
        UNKNOWN_AUTHOR,
    )


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a layout.

    Attributes:
        file: Name of the file as the data set has it.
        columns: What is read of it.
        check: What a row must fulfil beside that.
        kinds: Events that no other table tells: their metrics and tasks are off without this one.
        metrics, tasks: What is off without it although its kind of event is told elsewhere.
        loss: What to say of its absence where it switches nothing off.
    """

    file: str
    columns: tuple[Column, ...]
    check: RowCheck | None = None
    kinds: tuple[EventKind, ...] = ()
    metrics: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    loss: str = ""

    @property
    def name(self) -> str:
        return self.file.partition(".")[0]


class TableSource(Source):
    """Finds the tables of a layout in a folder and reads each as a stream of events.

    A layout gives `LAYOUT` (the data set's name), `TABLES` (the one that can't be missing first) and `ROOM_TABLES`
    (which name the author of every room, the most reliable first).

    Args:
        folder: Where the tables lie.

    Raises:
        SourceError: If the folder isn't one, lacks the first table, or holds a table without its columns.
    """

    LAYOUT: ClassVar[str]
    TABLES: ClassVar[tuple[Table, ...]]
    ROOM_TABLES: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path) -> None:
        self.schema = LIVE_SCHEMA
        self.notes: tuple[str, ...] = ()
        self._files: dict[str, Path] = {}
        self._headers: dict[str, list[str]] = {}
        absent = {}
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder; {self._wanted()}")
        for table in self.TABLES:
            reason = self._find(folder, table)
            if reason:
                absent[table] = reason
        if self.TABLES[0] in absent:
            found = sorted(path.name for path in folder.iterdir())
            listing = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
            raise SourceError(
                f"{folder}: {self.TABLES[0].file} {absent[self.TABLES[0]]}; {self._wanted()}. "
                f"The folder holds: {listing or 'nothing'}"
            )
        for table, reason in absent.items():
            self._do_without(table, f"{table.file} {reason}")
        for table in self.TABLES:
            if table.name in self._files and not self._has("author_id", table):
                rooms = " and ".join(self._files[name].name for name in self.ROOM_TABLES if name in self._files)
                self._note(
                    f"{self._files[table.name].name} names no author: that of the room in {rooms} is taken, "
                    f"and author_id {UNKNOWN_AUTHOR} where there is none"
                )

    def partitions(self) -> list[Partition]:
        return [Partition(str(self._files[t.name]), t.name) for t in self.TABLES if t.name in self._files]

    def read(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        table = next((table for table in self.TABLES if table.name == partition.table), None)
        if table is None or str(self._files.get(table.name)) != partition.path:
            raise ValueError(f"{partition} is not one of this source's partitions; take them from partitions()")
        authors = None if self._has("author_id", table) else self._room_authors()
        unknown = 0
        for item in read_table(Path(partition.path), self._columns(table), table.check):
            if isinstance(item, DeadLetter):
                yield item
                continue
            unknown += add_authors(item, authors)
            yield from self._events(table.name, item)
        if unknown:
            warn_of_unknown_authors(partition.path, unknown)

    @abc.abstractmethod
    def _events(self, table: str, rows: Rows) -> Iterator[pa.RecordBatch]:
        """The events that rows of a table tell."""

    def _columns(self, table: Table) -> tuple[Column, ...]:
        """The columns to read of a table in this folder."""
        return table.columns

    def _do_without(self, table: Table, problem: str) -> None:
        """Switches off what a missing table leaves untold, and notes it."""
        off = self._switch_off(table.kinds, table.metrics, table.tasks)
        self._note(f"{problem}: {table.loss or off}")

    def _note(self, line: str) -> None:
        self.notes += (line,)

    def _switch_off(self, kinds: Sequence[EventKind], metrics: Sequence[str] = (), tasks: Sequence[str] = ()) -> str:
        """Takes what needs `kinds`, and the named metrics and tasks, out of the schema; says what that was."""
        before = self.schema
        after = before.without(kinds)
        after = dataclasses.replace(
            after,
            metrics=tuple(metric for metric in after.metrics if metric.name not in metrics),
            tasks=tuple(task for task in after.tasks if task.name not in tasks),
        )
        self.schema = after
        lost = [f"metric {name}" for name in before.metric_names if name not in after.metric_names]
        lost += [f"task {name}" for name in before.task_names if name not in after.task_names]
        return f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'} off" if lost else "nothing is off"

    def _has(self, column_name: str, table: Table) -> bool:
        """Whether a table's file has a column."""
        names = {name for column in table.columns if column.name == column_name for name in column.names}
        return bool(names & set(self._headers[table.name]))

    def _find(self, folder: Path, table: Table) -> str:
        """Notes where a table lies and what columns it has; returns why it can't be read, or ""."""
        paths = [path for path in (folder / f"{table.name}{suffix}" for suffix in SUFFIXES) if path.is_file()]
        if not paths:
            return "is missing"
        path, *others = sorted(paths, key=lambda path: path.name != table.file)
        for other in others:
            self._note(f"{other.name} is not read: {path.name} is")
        header = read_header(path)
        if header is None:
            return "is empty (0 bytes)"
        find_columns(path, header, table.columns)
        self._files[table.name], self._headers[table.name] = path, header
        return ""

    def _wanted(self) -> str:
        *others, last = (table.file for table in self.TABLES[1:])
        return (
            f"expected a folder in the layout of {self.LAYOUT}, with {self.TABLES[0].file} and, as far as there are "
            f"any, {', '.join(others)} and {last} (each as .csv, .csv.gz or .parquet)"
        )

    def _room_authors(self) -> RoomAuthors:
        authors = RoomAuthors()
        for table in (table for name in self.ROOM_TABLES for table in self.TABLES if table.name == name):
            if table.name in self._files:
                columns = [column for column in table.columns if column.name in ("live_id", "author_id")]
                for item in read_table(self._files[table.name], columns):
                    # The table's own partition gives its dead letters.
                    if not isinstance(item, DeadLetter):
                        authors.add(item["live_id"], item["author_id"])
        return authors
