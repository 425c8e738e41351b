import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_transforms.sources.source import DeadLetter, SourceError
from beam_transforms.sources.tables.parquet_reader import BATCH_ROWS, parquet_header, read_parquet


def test_batches_are_streamed_and_rows_are_numbered(tmp_path):
    path = tmp_path / "t.parquet"
    rows = BATCH_ROWS + 10
    pq.write_table(pa.table({"a": np.arange(rows), "b": np.zeros(rows), "c": np.arange(rows)}), path)
    assert parquet_header(path) == ["a", "b", "c"]
    first, second = read_parquet(path, ["c", "a"])
    assert len(first.columns["a"]) == BATCH_ROWS
    assert second.columns["c"].to_pylist() == list(range(BATCH_ROWS, rows))
    assert second.locate(3) == (BATCH_ROWS + 4, f"c={BATCH_ROWS + 3}, a={BATCH_ROWS + 3}")


def test_a_file_of_zero_bytes_has_no_header(tmp_path):
    path = tmp_path / "t.parquet"
    path.touch()
    assert parquet_header(path) is None


def test_a_file_without_its_footer_is_an_error(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SourceError, match=r"t.parquet: can't be read as a Parquet file"):
        parquet_header(path)


def test_a_file_with_a_damaged_page_is_read_up_to_there(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"a": np.random.default_rng(0).integers(0, 2**62, 30_000)})
    pq.write_table(table, path, row_group_size=10_000, use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset : chunk.data_page_offset + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    *batches, letter = read_parquet(path, ["a"])
    assert sum(len(batch.columns["a"]) for batch in batches) == letter.line - 1
    assert isinstance(letter, DeadLetter)
    assert (letter.file, letter.text) == (str(path), "")
    assert "the file is damaged: " in letter.reason
