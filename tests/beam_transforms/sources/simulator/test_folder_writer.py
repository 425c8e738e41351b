import numpy as np
import pyarrow.parquet
import pytest

from beam_transforms.sources.simulator import folder_writer
from beam_transforms.sources.simulator.folder_writer import FolderWriter


def _segments(count):
    return {
        "live_stream_id": np.full(count, "1"),
        "segment_id": np.full(count, "1_0"),
        "feature_128": pyarrow.FixedSizeListArray.from_arrays(np.zeros(count * 128, np.float32), 128),
        "timestamp": np.arange(count),
    }


def test_segments_are_split_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_writer, "_SHARD_ROWS", 10)
    with FolderWriter(tmp_path / "out") as writer:
        for _ in range(5):
            writer.write("segment", _segments(6))
    shards = sorted((tmp_path / "out" / "live_emb_128_ts").iterdir())
    assert [shard.name for shard in shards] == [f"live_emb_128_ts_part0000{number}.parquet" for number in range(3)]
    assert [pyarrow.parquet.read_metadata(shard).num_rows for shard in shards] == [12, 12, 6]
    assert writer.rows["segment"] == 30


def test_failed_write_removes_everything(tmp_path):
    with pytest.raises(KeyError, match="author_id"), FolderWriter(tmp_path / "out") as writer:
        writer.write("user_id", {"user_id": np.arange(3)})
        writer.write("follow", {"user_id": np.arange(3), "live_id": np.arange(3)})
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="already exists"):
        FolderWriter(tmp_path / "out")
