"""Writes the tables of a simulation, a piece at a time, into a folder that appears whole or not at all."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from beam_transforms.sources.simulator.tables import TABLES

_SHARD_ROWS = 200_000


class FolderWriter:
    """Context manager over a folder of tables.

    Everything is written to a temporary folder beside `out`, which takes the name `out` when the block ends well and is
    removed when it doesn't.

    Attributes:
        rows: Rows written so far, by table.
    """

    def __init__(self, out: Path) -> None:
        """Raises ValueError if `out` exists and isn't an empty folder."""
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(
                f"{out} already exists and is not an empty folder; choose another folder or remove it first"
            )
        self.rows = dict.fromkeys(TABLES, 0)
        self._out = out
        self._writers: dict[str, pa.csv.CSVWriter | pa.parquet.ParquetWriter] = {}
        self._shards = 0

    def __enter__(self) -> Self:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self._out.name}.", dir=self._out.parent))
        return self

    def write(self, table: str, columns: Mapping[str, np.ndarray | pa.Array]) -> None:
        """Appends rows; columns are arrays of one length, in any order."""
        schema = TABLES[table].schema
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
            for field in schema
            for column in (columns[field.name],)
        ]
        batch = pa.record_batch(arrays, schema=schema)
        if table not in self._writers:
            self._writers[table] = self._open(table)
        elif "{part}" in TABLES[table].path and self.rows[table] // _SHARD_ROWS >= self._shards:
            self._writers[table].close()
            self._writers[table] = self._open(table)
        if batch.num_rows:
            self._writers[table].write_batch(batch)
        self.rows[table] += batch.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for table in [name for name in TABLES if name not in self._writers]:
                    self._writers[table] = self._open(table)
            for writer in self._writers.values():
                writer.close()
            if kind is None:
                self._folder.chmod(0o755)
                self._folder.replace(self._out)
        finally:
            if self._folder.exists():
                shutil.rmtree(self._folder)

    def _open(self, table: str) -> pa.csv.CSVWriter | pa.parquet.ParquetWriter:
        path = self._folder / TABLES[table].path.format(part=f"{self._shards:05d}")
        path.parent.mkdir(exist_ok=True)
        schema = TABLES[table].schema
        if path.suffix == ".csv":
            return pa.csv.CSVWriter(path, schema)
        if "{part}" in TABLES[table].path:
            self._shards += 1
        embedding = any(pa.types.is_fixed_size_list(field.type) for field in schema)
        return pa.parquet.ParquetWriter(
            path, schema, compression="none" if embedding else "zstd", use_dictionary=not embedding
        )
