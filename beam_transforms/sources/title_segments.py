"""Segments from the titles of rooms, for data that has no embedding of what a room shows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_transforms.columnar import hash_rows
from beam_transforms.content import MAX_SEGMENT_ROWS, segment_batch
from beam_transforms.sources.layout_columns import AUTHOR, ROOM, START
from beam_transforms.sources.seen_rows import SeenRows
from beam_transforms.sources.source import DeadLetter, SourceError
from beam_transforms.sources.tables.table import Column, RowCheck, Rows, read_header, read_table
from beam_transforms.sources.tables.value_types import ID

FILE = "title_embeddings.npy"
_TITLE = Column("title", ID, ("live_name_id",))


class TitleSegments:
    """One segment a room, at its start: the row `live_name_id` of `title_embeddings.npy`, an array (titles, W).

    Args:
        folder: The folder that holds `title_embeddings.npy`.
        rooms: The table of rooms, with their `live_name_id`; None where there is none.

    Attributes:
        paths: The table of rooms; nothing where there are no segments.
        note: Where segments come from, or why there are none.

    Raises:
        SourceError: If the file isn't an array of numbers of the shape (titles, W).
    """

    def __init__(self, folder: Path, rooms: Path | None) -> None:
        self.paths: list[Path] = []
        self._embeddings = folder / FILE
        lacking = ""
        if rooms is None:
            lacking = "there is no table of rooms"
        elif "live_name_id" not in (read_header(rooms) or ()):
            lacking = f"{rooms.name} has no live_name_id"
        elif not self._embeddings.is_file():
            lacking = f"{FILE} is missing"
        if lacking or rooms is None:
            self.note = f"{lacking}, so features of semantic ids are off"
            return
        self._open()
        self.paths = [rooms]
        self.note = f"a room has one segment, at its start: its title in {FILE}"

    def read(self) -> Iterator[pa.RecordBatch | DeadLetter]:
        """Streams the rooms; one without a title in the file, or that was there before, is a dead letter."""
        vectors, seen = self._open(), SeenRows()

        def holds(rows: Rows) -> np.ndarray:
            known = rows["title"] < len(vectors)
            again = np.zeros(len(known), dtype=bool)
            again[known] = seen.add(hash_rows([rows["live_id"][known]]))
            return known & ~again

        check = RowCheck(
            f"live_name_id should be below {len(vectors)}, the titles of {FILE}, and the room not stand further up",
            holds,
        )
        for rows in read_table(self.paths[0], (ROOM, AUTHOR, START, _TITLE), check):
            if isinstance(rows, DeadLetter):
                yield rows
                continue
            for first in range(0, len(rows["start"]), MAX_SEGMENT_ROWS):
                part = {name: values[first : first + MAX_SEGMENT_ROWS] for name, values in rows.items()}
                yield segment_batch(part["live_id"], part["author_id"], part["start"], vectors[part["title"]])

    def _open(self) -> np.ndarray:
        """The embeddings, read from the disk as they are needed."""
        try:
            vectors: np.ndarray = np.load(self._embeddings, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise SourceError(f"{self._embeddings}: can't be read as a NumPy file: {error}") from error
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind not in "iuf":
            raise SourceError(
                f"{self._embeddings}: expected an array of numbers of the shape (titles, W), got "
                f"{getattr(vectors, 'dtype', type(vectors).__name__)} of {getattr(vectors, 'shape', '?')}"
            )
        return vectors
