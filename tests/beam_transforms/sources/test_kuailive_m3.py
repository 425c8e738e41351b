import datetime
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_transforms.schema import LIVE_SCHEMA
from beam_transforms.sources.kuailive_m3 import KuaiLiveM3Source
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.source import MAX_BATCH_ROWS, SourceError

T = 1_746_403_200_000
"""2025-05-05T00:00:00Z in milliseconds."""

SESSION_COLUMNS = (
    "user_id,author_id,live_id,live_play_start_timestamp,live_play_end_timestamp,p_date,live_source_category,"
    "enter_live_action,is_auto_play,is_follow_enter,is_follow_leave,play_duration,like_cnt,comment_cnt,send_gift_cnt,"
    "send_gift_num,follow_author_cnt,cancel_follow_author_cnt,share_cnt,report_live_cnt\n"
)


def session(user, author, room, start, end, action="click", duration="", counts=(0, 0, 0, 0, 0)):
    like, comment, gift, follow, share = counts
    return (
        f"{user},{author},{room},{start},{end},20250505,feed,{action},0,0,0,{duration},"
        f"{like},{comment},{gift},{gift},{follow},0,{share},0\n"
    )


SESSIONS = (
    SESSION_COLUMNS
    + session(1, 10, 100, "2025-05-05 00:00:01.000", "2025-05-05 00:01:01.000", "click", 59500)
    + session(1, 10, 100, "2025-05-05T08:02:00+08:00", f"{T + 125_000}", "re-enter")
    + session(2, 11, 101, T // 1000 + 5, "", "slide", "")
    + session(3, 11, 101, T + 7000, "", "slide", 2500)
)
SESSION_EVENTS = [
    ("ENTER", T + 1000, 1, 10, 100, 1.0),
    ("ENTER", T + 5000, 2, 11, 101, 1.0),
    ("ENTER", T + 7000, 3, 11, 101, 1.0),
    ("ENTER", T + 120_000, 1, 10, 100, 1.0),
    ("EXPOSURE", T + 1000, 1, 10, 100, 1.0),
    ("EXPOSURE", T + 5000, 2, 11, 101, 1.0),
    ("EXPOSURE", T + 7000, 3, 11, 101, 1.0),
    ("LEAVE", T + 9500, 3, 11, 101, 2.5),
    ("LEAVE", T + 61_000, 1, 10, 100, 59.5),
    ("LEAVE", T + 125_000, 1, 10, 100, 5.0),
]


@pytest.fixture
def folder(tmp_path, write):
    """Every table, a few rows each, in the layout that the data set and the simulator have."""
    write("live_interaction.csv", SESSIONS)
    pq.write_table(
        pa.table({"live_id": [100, 102], "user_id": [4, 1], "author_id": [10, 12], "show_timestamp": [T, T + 1]}),
        tmp_path / "live_show.parquet",
    )
    write(
        "live_comment.csv",
        "live_stream_id,user_id,author_id,content,comment_ts\n"
        f'100,1,10,"Hi, ""you""\nthere",{T + 2000}\n101,2,11,主播好,{T + 6000}\n',
    )
    write("live_like.csv", f"user_id,live_id,like_timestamp\n1,100,{T + 3000}\n2,101,{T + 6500}\n9,999,{T + 1}\n")
    write(
        "live_share.csv",
        f"user_id,live_id,author_id,share_timestamp,is_share_success\n1,100,10,{T + 4000},1\n1,100,10,{T + 4001},0\n",
    )
    start = datetime.datetime(2025, 5, 4, 23, 50)
    pq.write_table(
        pa.table(
            {
                "live_id": [100, 101, 102],
                "author_id": [10, 11, 12],
                "live_name": ["a", None, "c"],
                "start_timestamp": [start, start, start],
                "end_timestamp": [start + datetime.timedelta(hours=1), None, start],
                "live_duration": [3_600_000, None, 0],
            }
        ),
        tmp_path / "live_room_meta.parquet",
    )
    ids = "user_id,live_id,author_id"
    write("live_gift.csv", f"{ids},timestamp,gift_price\n1,100,10,{T + 5000},9.9\n")
    write("live_follow.csv", f"{ids},timestamp\n2,101,11,{T + 8000}\n")
    write("live_product_click.csv", f"{ids},product_id,timestamp\n1,100,10,77,{T + 9000}\n")
    write("live_cart_click.csv", f"{ids},product_id,timestamp\n1,100,10,77,{T + 9100}\n")
    write("live_order.csv", f"{ids},product_id,timestamp,price\n1,100,10,77,{T + 9200},129\n")
    return tmp_path


def test_every_table_gives_its_events(folder, read):
    source = KuaiLiveM3Source(folder)
    events, letters = read(source)
    assert letters == []
    assert events == sorted(
        [
            *SESSION_EVENTS,
            ("EXPOSURE", T, 4, 10, 100, 1.0),
            ("EXPOSURE", T + 1, 1, 12, 102, 1.0),
            ("COMMENT", T + 2000, 1, 10, 100, 15.0),
            ("COMMENT", T + 6000, 2, 11, 101, 3.0),
            ("LIKE", T + 3000, 1, 10, 100, 1.0),
            ("LIKE", T + 6500, 2, 11, 101, 1.0),
            ("LIKE", T + 1, 9, 0, 999, 1.0),
            ("SHARE", T + 4000, 1, 10, 100, 1.0),
            ("ROOM_START", T - 600_000, -1, 10, 100, 1.0),
            ("ROOM_START", T - 600_000, -1, 11, 101, 1.0),
            ("ROOM_START", T - 600_000, -1, 12, 102, 1.0),
            ("ROOM_END", T + 3_000_000, -1, 10, 100, 1.0),
            ("ROOM_END", T - 600_000, -1, 12, 102, 1.0),
            ("GIFT", T + 5000, 1, 10, 100, pytest.approx(9.9)),
            ("FOLLOW", T + 8000, 2, 11, 101, 1.0),
            ("PRODUCT_CLICK", T + 9000, 1, 10, 100, 1.0),
            ("CART_CLICK", T + 9100, 1, 10, 100, 1.0),
            ("ORDER", T + 9200, 1, 10, 100, 129.0),
        ]
    )
    assert source.schema == LIVE_SCHEMA
    assert source.notes == (
        "live_like.csv names no author: that of the room in live_room_meta.parquet and live_interaction.csv is taken, "
        "and author_id 0 where there is none",
        "live_emb_128_ts is missing or holds no shard: features of semantic ids are off",
        "live_product.parquet is missing: features of products are off",
    )


def test_a_source_reads_the_same_after_pickling(folder, read):
    source = open_source("kuailive_m3", folder)
    assert read(pickle.loads(pickle.dumps(source))) == read(source)  # noqa: S301


def test_rooms_without_an_author_are_counted_in_the_log(folder, read, caplog):
    read(KuaiLiveM3Source(folder), "live_like")
    assert "live_like.csv: 1 rows are of rooms for which no table names an author" in caplog.text


def test_without_room_metadata_authors_come_from_sessions(folder, read):
    (folder / "live_room_meta.parquet").unlink()
    source = KuaiLiveM3Source(folder)
    events, _ = read(source, "live_like")
    assert [event[3] for event in events] == [0, 10, 11]
    assert "live_room_meta.parquet is missing: no room has a start or an end" in source.notes
    assert source.schema == LIVE_SCHEMA


@pytest.mark.parametrize(
    ("file", "metrics", "tasks", "note"),
    [
        ("live_show.parquet", {"exposure"}, {"ctr"}, "metric exposure, task ctr are off"),
        ("live_order.csv", {"gmv", "order"}, {"cvr"}, "metric gmv, metric order, task cvr are off"),
        ("live_product_click.csv", {"product_click"}, set(), "metric product_click is off"),
        ("live_cart_click.csv", {"cart_click"}, set(), "metric cart_click is off"),
        ("live_gift.csv", {"gift_value"}, set(), "metric gift_value is off"),
        ("live_share.csv", set(), set(), "taken from share_cnt of live_interaction.csv, at the session's end"),
    ],
)
def test_a_missing_table_switches_off_what_needs_it(folder, file, metrics, tasks, note):
    (folder / file).unlink()
    source = KuaiLiveM3Source(folder)
    assert set(LIVE_SCHEMA.metric_names) - set(source.schema.metric_names) == metrics
    assert set(LIVE_SCHEMA.task_names) - set(source.schema.task_names) == tasks
    notes = [line for line in source.notes if line.startswith(f"{file} is missing: ")]
    assert len(notes) == 1
    assert note in notes[0]


def test_a_table_of_zero_bytes_counts_as_missing(folder, write, read):
    write("live_order.csv", b"")
    source = KuaiLiveM3Source(folder)
    assert "live_order.csv is empty (0 bytes): metric gmv, metric order, task cvr are off" in source.notes
    assert "ORDER" not in {event[0] for event in read(source)[0]}


def test_a_table_of_only_a_header_tells_that_nothing_happened(folder, write, read):
    write("live_order.csv", "user_id,live_id,author_id,product_id,timestamp,price\n")
    write("live_like.csv.gz", "user_id,live_id,like_timestamp")
    (folder / "live_like.csv").unlink()
    source = KuaiLiveM3Source(folder)
    events, letters = read(source)
    assert source.schema == LIVE_SCHEMA
    assert letters == []
    assert not {"ORDER", "LIKE"} & {event[0] for event in events}


def test_counts_of_a_session_stand_in_for_missing_tables(write, read, tmp_path):
    write(
        "live_interaction.csv",
        SESSION_COLUMNS
        + session(1, 10, 100, T, T + 5000, counts=(2, 1, 1, 1, 1))
        + session(2, 10, 100, T, T + 1, counts=(4, 0, 0, 0, 0)),
    )
    source = KuaiLiveM3Source(tmp_path)
    events, letters = read(source)
    assert letters == []
    assert [event for event in events if event[0] not in ("EXPOSURE", "ENTER", "LEAVE")] == [
        ("COMMENT", T + 5000, 1, 10, 100, 0.0),
        ("FOLLOW", T + 5000, 1, 10, 100, 1.0),
        ("GIFT", T + 5000, 1, 10, 100, 0.0),
        # The session of user 2 lasted a millisecond: its likes lie within it.
        ("LIKE", T, 2, 10, 100, 1.0),
        ("LIKE", T, 2, 10, 100, 1.0),
        ("LIKE", T, 2, 10, 100, 1.0),
        ("LIKE", T + 1, 2, 10, 100, 1.0),
        ("LIKE", T + 4999, 1, 10, 100, 1.0),
        ("LIKE", T + 5000, 1, 10, 100, 1.0),
        ("SHARE", T + 5000, 1, 10, 100, 1.0),
    ]


def test_large_counts_come_in_batches_of_bounded_size(write, read, tmp_path):
    write(
        "live_interaction.csv",
        SESSION_COLUMNS
        + "".join(session(user, 10, 100, T, T + 600_000, counts=(90_000, 0, 0, 0, 0)) for user in range(3))
        + session(3, 10, 100, T, T + 600_000, counts=(10**12, 0, 0, 0, 0)),
    )
    events, letters = read(KuaiLiveM3Source(tmp_path))
    likes = [event for event in events if event[0] == "LIKE"]
    assert len(likes) == len(set(likes)) == 270_000 > 2 * MAX_BATCH_ROWS
    assert [(letter.line, letter.reason) for letter in letters] == [
        (5, "like_cnt should be a count from 0 to 100000, got '1000000000000'")
    ]


def test_a_session_that_ends_before_it_starts_is_a_dead_letter(write, read, tmp_path):
    write("live_interaction.csv", SESSION_COLUMNS + session(1, 10, 100, T + 1, T) + session(2, 10, 100, T, T))
    events, letters = read(KuaiLiveM3Source(tmp_path))
    assert {event[2] for event in events} == {2}
    (letter,) = letters
    assert (letter.line, letter.reason) == (2, "the end should not be before the start, nor after 2099")
    assert letter.text.startswith("1,10,100,")


def test_a_duration_that_no_session_has_does_not_end_one_days_later(write, read, tmp_path):
    last = "2099-12-31T23:59:59"
    durations = [(T, 86_400_000), (T, 86_400_001), (T, 300_000_000_000), (last, 999), (last, 1000)]
    rows = [session(1, 10, 100, start, "", duration=duration) for start, duration in durations]
    write("live_interaction.csv", SESSION_COLUMNS + "".join(rows))
    events, letters = read(KuaiLiveM3Source(tmp_path))
    assert [time for kind, time, *_ in events if kind == "LEAVE"] == [T + 86_400_000, 4_102_444_799_999]
    expected = "play_duration should be milliseconds from 0 to 86400000 (24 hours), got"
    assert [(letter.line, letter.reason) for letter in letters] == [
        (3, f"{expected} '86400001'"),
        (4, f"{expected} '300000000000'"),
        (6, "the end should not be before the start, nor after 2099"),
    ]


def test_without_the_way_of_entering_every_session_is_an_impression(write, read, tmp_path):
    write(
        "live_interaction.csv",
        "streamer_id,live_stream_id,user_id,live_play_start_timestamp,live_play_end_timestamp\n"
        f"10,100,1,{T},{T + 1000}\n10,100,1,{T + 2000},{T + 3000}\n",
    )
    source = KuaiLiveM3Source(tmp_path)
    events, _ = read(source)
    assert [event[0] for event in events] == ["ENTER", "ENTER", "EXPOSURE", "EXPOSURE", "LEAVE", "LEAVE"]
    assert "live_interaction.csv has no enter_live_action: every session counts as an impression" in source.notes
    assert source.schema.task_names == ("evtr", "lvtr")


def test_another_file_format_is_read_and_a_second_copy_is_not(folder, write, read):
    before = read(KuaiLiveM3Source(folder))[0]
    table = pq.read_table(folder / "live_show.parquet").to_pylist()
    rows = "".join(f"{row['live_id']},{row['user_id']},{row['author_id']},{row['show_timestamp']}\n" for row in table)
    write("live_show.csv.gz", "live_id,user_id,author_id,show_timestamp\n" + rows)
    (folder / "live_show.parquet").unlink()
    write("live_like.csv.gz", "user_id,live_id,like_timestamp\n5,100,1746403200000\n")
    source = KuaiLiveM3Source(folder)
    assert read(source)[0] == before
    assert "live_like.csv.gz is not read: live_like.csv is" in source.notes


def test_wrong_columns_are_an_error(folder, write):
    path = write("live_like.csv", "uid,live_id,like_time\n1,2,3\n")
    with pytest.raises(SourceError) as raised:
        KuaiLiveM3Source(folder)
    assert str(raised.value) == (
        f"{path}: lacks the columns ['user_id', 'like_timestamp']; it has ['uid', 'live_id', 'like_time']"
    )


def test_an_empty_folder_is_an_error_that_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        SourceError, match=r"live_interaction.csv is missing; expected .* KuaiLive-M3, .*holds: nothing"
    ):
        KuaiLiveM3Source(tmp_path)


def test_a_folder_of_something_else_is_an_error_that_says_what_was_found(tmp_path, write):
    write("click.csv", "a,b\n")
    with pytest.raises(SourceError, match=r"live_interaction.csv is missing.*holds: click.csv"):
        KuaiLiveM3Source(tmp_path)


def test_a_required_table_without_content_is_an_error(tmp_path, write):
    write("live_interaction.csv", "")
    with pytest.raises(SourceError, match=r"live_interaction.csv is empty \(0 bytes\)"):
        KuaiLiveM3Source(tmp_path)


@pytest.mark.parametrize("name", ["kuailive_m3", "kuailive", "chat_log"])
def test_a_path_that_is_no_folder_is_an_error(name, tmp_path, write):
    for path in (write("a.csv", "x"), tmp_path / "nowhere"):
        with pytest.raises(SourceError, match=f"{path.name} is not a folder; expected a folder"):
            open_source(name, path)


def test_a_foreign_partition_is_an_error(folder, tmp_path, write):
    source = KuaiLiveM3Source(folder)
    (partition,) = [partition for partition in source.partitions() if partition.table == "live_like"]
    for changed in ({"table": "live_gift"}, {"path": str(tmp_path / "x.csv")}, {"table": "x"}):
        with pytest.raises(ValueError, match=r"take them from partitions\(\)"):
            list(source.read(type(partition)(**(vars(partition) | changed))))
