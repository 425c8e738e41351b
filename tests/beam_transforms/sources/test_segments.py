"""Segments and products of folders."""

import pickle

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_transforms.content import MAX_SEGMENT_ROWS, PRODUCT_ARROW_SCHEMA, segment_arrow_schema
from beam_transforms.events import register_coders
from beam_transforms.read_partitions import DEAD_LETTERS
from beam_transforms.read_products import ReadProducts
from beam_transforms.read_segments import ReadSegments
from beam_transforms.sources.chat_log import ChatLogSource
from beam_transforms.sources.kuailive import KuaiLiveSource
from beam_transforms.sources.kuailive_m3 import KuaiLiveM3Source
from beam_transforms.sources.source import DeadLetter, Partition, SourceError

T = 1_746_403_200_000
SESSIONS = "user_id,author_id,live_id,live_play_start_timestamp,live_play_end_timestamp\n"
PRODUCTS = "live_id,author_id,product_id,category_1,category_2,category_3,start_timestamp,price\n"
OFF = "live_emb_128_ts is missing or holds no shard: features of semantic ids are off"


@pytest.fixture
def folder(tmp_path, write):
    write("live_interaction.csv", SESSIONS + f"1,10,100,{T},{T + 1000}\n")
    write("live_product.csv", PRODUCTS + f"100,10,5,1,2,3,{T},9.9\n101,11,6,1,2,4,{T + 1},1\n")
    return tmp_path


def shard(folder, part, rooms, ids, vectors, ends=None, kind=None, **more):
    (folder / "live_emb_128_ts").mkdir(exist_ok=True)
    columns = {
        "live_stream_id": pa.array(rooms, pa.string()),
        "segment_id": pa.array(ids, pa.string()),
        "feature_128": pa.array(vectors, kind or pa.list_(pa.float32())),
        "timestamp": pa.array(ends or [T + 1000 * (row + 1) for row in range(len(rooms))], pa.int64()),
    }
    path = folder / "live_emb_128_ts" / f"live_emb_128_ts_part{part}.parquet"
    pq.write_table(pa.table(columns | more), path, row_group_size=7)
    return path


def read_all(partitions, read):
    batches, letters = [], []
    for partition in partitions:
        for item in read(partition):
            (letters if isinstance(item, DeadLetter) else batches).append(item)
    return [row for batch in batches for row in batch.to_pylist()], letters, batches


def segments_of(source):
    return read_all(source.segment_partitions(), source.read_segments)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.float64())])
def test_shards_become_segments_that_end_a_millisecond_earlier(folder, kind):
    shard(folder, 0, ["100", "999"], ["a", "b"], [[1, 2], [3, 4]], kind=kind)
    shard(folder, 1, ["100"], ["a"], [[5, np.nan]], kind=kind)
    source = pickle.loads(pickle.dumps(KuaiLiveM3Source(folder)))  # noqa: S301
    rows, letters, batches = segments_of(source)
    assert letters == []
    assert batches[0].schema == segment_arrow_schema(2)
    # No table names the author of room 999.
    assert rows[:2] == [
        {"live_id": 100, "author_id": 10, "timestamp_ms": T + 999, "embedding": [1.0, 2.0]},
        {"live_id": 999, "author_id": 0, "timestamp_ms": T + 1999, "embedding": [3.0, 4.0]},
    ]
    assert np.isnan(rows[2]["embedding"][1])
    assert not any("live_emb" in note for note in source.notes)


def test_damaged_segments_are_dead_letters(folder):
    vectors = [[1, 2], [1, 2], [1], None, [1, None], [1, 2], [1, 2], [1, 2], [1, 2], [3, 4]]
    rooms = ["100", "100", "100", "100", "100", "", None, "100", "100", "100"]
    ids = ["a", "a", "c", "d", "e", "f", "g", "", None, "c"]
    path = shard(folder, 0, rooms, ids, vectors)
    rows, letters, _ = segments_of(KuaiLiveM3Source(folder))
    # What was damaged doesn't count as having been there: the second c is read.
    assert [row["timestamp_ms"] - T for row in rows] == [999, 9999]
    assert {letter.file for letter in letters} == {str(path)}
    assert [(letter.line, letter.reason) for letter in letters] == [
        (2, "a segment with this room and segment_id stands further up in the file"),
        (3, "feature_128 should be a list of 2 numbers, got '[1.0]'"),
        (4, "feature_128 should be a list of 2 numbers, got 'None'"),
        (5, "feature_128 should be a list of 2 numbers, got '[1.0, None]'"),
        (6, "live_stream_id should be an id (an integer >= 0), got ''"),
        (7, "live_stream_id should be an id (an integer >= 0), got 'None'"),
        (8, "segment_id should be a name (text that isn't empty), got ''"),
        (9, "segment_id should be a name (text that isn't empty), got 'None'"),
    ]


def test_a_shard_of_another_width_is_all_dead_letters(folder):
    shard(folder, 0, ["100"], ["a"], [[1, 2]])
    shard(folder, 1, ["100"], ["b"], [[1, 2, 3]], kind=pa.list_(pa.float32(), 3))
    rows, letters, _ = segments_of(KuaiLiveM3Source(folder))
    assert len(rows) == 1
    assert [letter.reason for letter in letters] == ["feature_128 should be a list of 2 numbers, got '[1.0, 2.0, 3.0]'"]


def test_batches_of_segments_are_bounded(folder):
    count = MAX_SEGMENT_ROWS + 5
    shard(folder, 0, ["100"] * count, [str(row) for row in range(count)], np.zeros((count, 2)).tolist())
    rows, letters, batches = segments_of(KuaiLiveM3Source(folder))
    assert (len(rows), letters) == (count, [])
    assert max(batch.num_rows for batch in batches) <= MAX_SEGMENT_ROWS


def test_without_shards_semantic_ids_are_off(folder, write):
    assert OFF in KuaiLiveM3Source(folder).notes
    assert KuaiLiveM3Source(folder).segment_partitions() == []
    (folder / "live_emb_128_ts").mkdir()
    write("live_emb_128_ts/live_emb_128_ts_part0.parquet", b"")
    source = KuaiLiveM3Source(folder)
    assert "live_emb_128_ts/live_emb_128_ts_part0.parquet is empty (0 bytes) and not read" in source.notes
    assert OFF in source.notes
    shard(folder, 1, ["100"], ["a"], [None])
    source = KuaiLiveM3Source(folder)
    assert "live_emb_128_ts holds no embedding: features of semantic ids are off" in source.notes
    assert source.segment_partitions() == []


def test_a_shard_without_its_columns_is_an_error(folder):
    path = shard(folder, 0, ["100"], ["a"], [[1, 2]])
    pq.write_table(pq.read_table(path).drop_columns("segment_id"), path)
    with pytest.raises(SourceError, match=r"part0.parquet: lacks the columns \['segment_id'\]; it has"):
        KuaiLiveM3Source(folder)
    path.write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="can't be read as a Parquet file"):
        KuaiLiveM3Source(folder)


def test_products_are_read(folder, write):
    source = KuaiLiveM3Source(folder)
    rows, letters, batches = read_all(source.product_partitions(), source.read_products)
    assert letters == []
    assert batches[0].schema == PRODUCT_ARROW_SCHEMA
    names = PRODUCT_ARROW_SCHEMA.names
    assert [tuple(row[name] for name in names) for row in rows] == [
        (100, 10, T, 5, 1, 2, 3),
        (101, 11, T + 1, 6, 1, 2, 4),
    ]
    assert "live_product" not in {partition.table for partition in source.partitions()}
    write(
        "live_product.csv",
        PRODUCTS.replace("author_id,", "") + f"100,5,1,2,3,{T},9\n102,5,1,2,3,{T},9\n1,5,1,2,-3,5,9\n",
    )
    source = KuaiLiveM3Source(folder)
    rows, letters, _ = read_all(source.product_partitions(), source.read_products)
    assert [row["author_id"] for row in rows] == [10, 0]
    assert [letter.line for letter in letters] == [4]
    (folder / "live_product.csv").unlink()
    source = KuaiLiveM3Source(folder)
    assert source.product_partitions() == []
    assert "live_product.parquet is missing: features of products are off" in source.notes


def test_a_room_of_kuailive_has_its_title_for_a_segment(tmp_path, write):
    write("click.csv", f"user_id,live_id,streamer_id,timestamp,watch_live_time\n1,100,10,{T},1500\n")
    header = "live_id,streamer_id,start_timestamp,end_timestamp,live_name_id\n"
    write("room.csv", header + f"100,10,{T},,1\n101,11,{T + 5},,0\n102,11,{T},,2\n103,11,{T},,\n100,10,{T + 9},,0\n")
    assert KuaiLiveSource(tmp_path).notes[-1] == (
        "KuaiLive has no segment embeddings: title_embeddings.npy is missing, so features of semantic ids are off"
    )
    np.save(tmp_path / "title_embeddings.npy", np.array([[1.0, 2.0], [3.0, 4.0]]))
    source = KuaiLiveSource(tmp_path)
    assert source.notes[-1] == (
        "KuaiLive has no segment embeddings: a room has one segment, at its start: its title in title_embeddings.npy"
    )
    rows, letters, _ = segments_of(source)
    assert rows == [
        {"live_id": 100, "author_id": 10, "timestamp_ms": T, "embedding": [3.0, 4.0]},
        {"live_id": 101, "author_id": 11, "timestamp_ms": T + 5, "embedding": [1.0, 2.0]},
    ]
    assert [letter.line for letter in letters] == [4, 5, 6]
    assert letters[0].reason == (
        "live_name_id should be below 2, the titles of title_embeddings.npy, and the room not stand further up"
    )
    np.save(tmp_path / "title_embeddings.npy", np.zeros(3))
    with pytest.raises(
        SourceError, match=r"expected an array of numbers of the shape \(titles, W\), got float64 of \(3,\)"
    ):
        KuaiLiveSource(tmp_path)
    (tmp_path / "title_embeddings.npy").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="can't be read as a NumPy file"):
        KuaiLiveSource(tmp_path)


def test_a_foreign_partition_is_an_error(folder, tmp_path, write):
    write("chat.csv", "session_id,date,offset_s,user\n")
    foreign = Partition("elsewhere", "segments")
    for source in (KuaiLiveM3Source(folder), ChatLogSource(tmp_path)):
        with pytest.raises(ValueError, match=r"take them from segment_partitions\(\)"):
            list(source.read_segments(foreign))
        with pytest.raises(ValueError, match=r"take them from product_partitions\(\)"):
            list(source.read_products(foreign))


def test_segments_and_products_in_a_pipeline(folder):
    register_coders()
    shard(folder, 0, ["100", "100"], ["a", "a"], [[1, 2], [3, 4]])
    source = KuaiLiveM3Source(folder)
    with beam.Pipeline("FnApiRunner") as pipeline:
        segments = pipeline | ReadSegments(source)
        products = pipeline | ReadProducts(source)
        assert_that(segments.segments | beam.Map(lambda batch: batch.num_rows), equal_to([1]))
        assert_that(segments[DEAD_LETTERS] | beam.Map(lambda letter: letter["line"]), equal_to([2]), "DeadLetters")
        assert_that(products.products | beam.Map(lambda batch: batch.num_rows), equal_to([2]), "Products")
