"""Streams a Parquet table."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_transforms.sources.source import DeadLetter, SourceError
from beam_transforms.sources.tables.raw_rows import RawRows

BATCH_ROWS = 65_536


def parquet_header(path: Path) -> list[str] | None:
    """The names of the columns, or None if the file has no bytes.

    Raises:
        SourceError: If it isn't a Parquet file, or its footer is lost.
    """
    if not path.stat().st_size:
        return None
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: can't be read as a Parquet file: {error}") from error


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[RawRows | DeadLetter]:
    """Streams the named columns, one row group in memory at most.

    A file with damaged data is read up to the damage, and one dead letter says where that is.
    """
    row = 0
    with pq.ParquetFile(path, pre_buffer=False) as file:
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
                yield RawRows(dict(zip(batch.schema.names, batch.columns, strict=True)), _Locator(batch, row + 1))
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            reason = f"the file is damaged: {error}; the rows from here on are lost"
            yield DeadLetter(str(path), row + 1, reason, "")


class _Locator:
    def __init__(self, batch: pa.RecordBatch, first_row: int) -> None:
        self._batch = batch
        self._first_row = first_row

    def __call__(self, row: int) -> tuple[int, str]:
        values = self._batch.slice(row, 1).to_pylist()[0]
        return self._first_row + row, ", ".join(f"{name}={value!r}" for name, value in values.items())
