"""Rows of a table as they stand in the file."""

import dataclasses
from collections.abc import Callable

import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class RawRows:
    """A block of rows whose values are not interpreted yet.

    Attributes:
        columns: Column name in the file -> its values: `pa.binary()` from a CSV file, any type from a Parquet file.
        locate: Row number in this block -> (line in the file, text of the row), for dead letters.
    """

    columns: dict[str, pa.Array]
    locate: Callable[[int], tuple[int, str]]
