"""Reads which products rooms showed, and from when on."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from beam_transforms.content import product_batch
from beam_transforms.sources.layout_columns import OPTIONAL_AUTHOR, ROOM, time
from beam_transforms.sources.room_authors import RoomAuthors
from beam_transforms.sources.source import MAX_BATCH_ROWS, DeadLetter
from beam_transforms.sources.table_source import add_authors, warn_of_unknown_authors
from beam_transforms.sources.tables.table import Column, read_table
from beam_transforms.sources.tables.value_types import ID

PRODUCT_COLUMNS_READ = (
    ROOM,
    OPTIONAL_AUTHOR,
    time("start_timestamp"),
    Column("product_id", ID),
    Column("category_1", ID),
    Column("category_2", ID),
    Column("category_3", ID),
)


def read_products(path: Path, authors: RoomAuthors | None) -> Iterator[pa.RecordBatch | DeadLetter]:
    """Streams a table of products as batches with schema `content.PRODUCT_ARROW_SCHEMA` and dead letters.

    Args:
        authors: Rooms' authors, or None where the table names them itself.
    """
    unknown = 0
    for rows in read_table(path, PRODUCT_COLUMNS_READ):
        if isinstance(rows, DeadLetter):
            yield rows
            continue
        unknown += add_authors(rows, authors)
        ids = (rows[column.name] for column in PRODUCT_COLUMNS_READ[3:])
        batch = product_batch(rows["live_id"], rows["author_id"], rows["time"], *ids)
        for first in range(0, batch.num_rows, MAX_BATCH_ROWS):
            yield batch.slice(first, MAX_BATCH_ROWS)
    if unknown:
        warn_of_unknown_authors(str(path), unknown)
