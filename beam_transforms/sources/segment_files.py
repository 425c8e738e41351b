"""Reads segments with their embeddings from the shards of a folder."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_transforms.columnar import hash_rows
from beam_transforms.content import MAX_SEGMENT_ROWS, segment_batch
from beam_transforms.sources.layout_columns import OPTIONAL_AUTHOR, ROOM, time
from beam_transforms.sources.room_authors import RoomAuthors
from beam_transforms.sources.seen_rows import SeenRows
from beam_transforms.sources.source import DeadLetter, SourceError, printable
from beam_transforms.sources.table_source import add_authors, warn_of_unknown_authors
from beam_transforms.sources.tables.table import Column, RowCheck, Rows, find_columns, read_header, read_table
from beam_transforms.sources.tables.value_types import NAME, vectors_of

FOLDER = "live_emb_128_ts"
_SEGMENT = Column("segment", NAME, ("segment_id",))
_EMBEDDINGS = ("feature_128", "embedding")


class SegmentFiles:
    """The shards `live_emb_128_ts/live_emb_128_ts_part*.parquet` of a folder.

    Args:
        folder: The folder that holds `live_emb_128_ts`.

    Attributes:
        paths: The shards, in the order of their names; none where there are none.
        width: Floats of an embedding: what the first list of the first shard that has one holds; 0 where there is none.
        notes: What a user should know of them.

    Raises:
        SourceError: If a shard can't be read as Parquet, or lacks a column.
    """

    def __init__(self, folder: Path) -> None:
        self.paths: list[Path] = []
        self.width = 0
        self.notes: tuple[str, ...] = ()
        for path in sorted((folder / FOLDER).glob(f"{FOLDER}_part*.parquet")):
            header = read_header(path)
            if header is None:
                self.notes += (f"{FOLDER}/{printable(path.name)} is empty (0 bytes) and not read",)
                continue
            find_columns(path, header, self._columns(1))
            self.paths.append(path)
        for path in self.paths:
            self.width = self.width or _first_width(path)
        if not self.width:
            problem = "holds no embedding" if self.paths else "is missing or holds no shard"
            self.notes += (f"{FOLDER} {problem}: features of semantic ids are off",)
            self.paths = []

    def names_authors(self, path: Path) -> bool:
        return bool(set(OPTIONAL_AUTHOR.names) & set(read_header(path) or ()))

    def read(self, path: Path, authors: RoomAuthors | None) -> Iterator[pa.RecordBatch | DeadLetter]:
        """Streams a shard, a row group in memory at most; a segment that was there before is a dead letter.

        Args:
            authors: Rooms' authors, or None where the shard names them itself.
        """
        seen, unknown = SeenRows(), 0
        first = RowCheck(
            "a segment with this room and segment_id stands further up in the file",
            lambda rows: ~seen.add(hash_rows([rows["live_id"], rows["segment"]])),
        )
        for rows in read_table(path, self._columns(self.width), first):
            if isinstance(rows, DeadLetter):
                yield rows
                continue
            unknown += add_authors(rows, authors)
            yield from _batches(rows)
        if unknown:
            warn_of_unknown_authors(str(path), unknown)

    @staticmethod
    def _columns(width: int) -> tuple[Column, ...]:
        return (ROOM, OPTIONAL_AUTHOR, _SEGMENT, time("timestamp"), Column("embedding", vectors_of(width), _EMBEDDINGS))


def _batches(rows: Rows) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(rows["time"]), MAX_SEGMENT_ROWS):
        part = {name: values[first : first + MAX_SEGMENT_ROWS] for name, values in rows.items()}
        yield segment_batch(part["live_id"], part["author_id"], part["time"] - 1, part["embedding"])


def _first_width(path: Path) -> int:
    """Length of the first list of embeddings in a file, 0 if there is none."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            name = next(name for name in _EMBEDDINGS if name in file.schema_arrow.names)
            for batch in file.iter_batches(256, columns=[name], use_threads=False):
                for value in batch.column(0):
                    if value.is_valid and hasattr(value, "values"):
                        return len(value.values or ())
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: can't be read as a Parquet file: {error}") from error
    return 0
