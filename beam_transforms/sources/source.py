"""What every source gives: partitions to read, batches of rows, and dead letters for what can't be read."""

import abc
import dataclasses
from collections.abc import Iterator

import pyarrow as pa

from beam_transforms.schema import RankingSchema

MAX_BATCH_ROWS = 131_072
"""Most rows of one batch of events."""

MAX_TEXT = 1_000
"""Most characters of a dead letter's text."""


def printable(text: str) -> str:
    r"""Text that UTF-8 can hold: bytes of a file's name that aren't UTF-8 (Python's surrogates) as `\udcff`."""
    return text.encode(errors="backslashreplace").decode()


class SourceError(ValueError):
    """A folder or a file isn't what a source was told it is; nothing of it can be read."""


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """What couldn't be read, kept instead of dropped. Its texts are `printable`.

    Attributes:
        file: Path of the file, for people: the `printable` form of a name isn't always the name.
        line: Line on which it starts, counted from 1 with the header; in a Parquet file the number of the row, from 1.
        reason: What was expected and what stood there.
        text: The row itself, cut to `MAX_TEXT` characters.
    """

    file: str
    line: int
    reason: str
    text: str

    def __post_init__(self) -> None:
        for name, text in (("file", self.file), ("reason", self.reason), ("text", self.text[:MAX_TEXT])):
            object.__setattr__(self, name, printable(text))


@dataclasses.dataclass(frozen=True)
class Partition:
    """One file, which one worker reads, and the table whose rows it holds."""

    path: str
    table: str


class Source(abc.ABC):
    """A place that events are read from. It can be pickled: workers get a copy.

    Attributes:
        schema: The metrics and tasks that this source can tell; what needs a missing table is switched off.
        notes: One line for each missing table and each peculiarity of the input.
    """

    schema: RankingSchema
    notes: tuple[str, ...]

    @abc.abstractmethod
    def partitions(self) -> list[Partition]:
        """The files to read, each of them once."""

    @abc.abstractmethod
    def read(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        """Streams a partition in bounded memory.

        Yields:
            Batches with schema `EVENT_ARROW_SCHEMA` of 1 to `MAX_BATCH_ROWS` rows, in any order of time; and a dead
            letter for each row that can't be read.
        """

    def segment_partitions(self) -> list[Partition]:
        """The files that segments are read from, each of them once; none where the source tells no segments."""
        return []

    def read_segments(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        """Streams a partition of segments in bounded memory.

        Yields:
            Batches with schema `content.segment_arrow_schema(W)`, one W in all of them, of 1 to `MAX_SEGMENT_ROWS`
            rows, in any order of time; and a dead letter for each row that can't be read.
        """
        raise ValueError(f"{partition} is not one of this source's; take them from segment_partitions()")

    def product_partitions(self) -> list[Partition]:
        """The files that products are read from, each of them once; none where the source tells no products."""
        return []

    def read_products(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        """Streams a partition of products in bounded memory.

        Yields:
            Batches with schema `content.PRODUCT_ARROW_SCHEMA` of 1 to `MAX_BATCH_ROWS` rows, in any order of time; and
            a dead letter for each row that can't be read.
        """
        raise ValueError(f"{partition} is not one of this source's; take them from product_partitions()")
