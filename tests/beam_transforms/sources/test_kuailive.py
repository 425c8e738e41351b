import numpy as np
import pytest

from beam_transforms.sources.kuailive import KuaiLiveSource
from beam_transforms.sources.source import SourceError

T = 1_746_403_200_000
IDS = "user_id,live_id,streamer_id,timestamp"


@pytest.fixture
def folder(tmp_path, write):
    write("click.csv", f"{IDS},watch_live_time\n1,100,10,{T},1500\n2,101,11,{T + 1},0\n3,101,11,{T + 2},\n")
    write("negative.csv", f"{IDS}\n1,101,11,{T + 3}\n")
    write("comment.csv", f"{IDS}\n1,100,10,{T + 4}\n")
    write("like.csv", f"{IDS}\n1,100,10,{T + 5}\n")
    write("gift.csv", f"{IDS},gift_price\n1,100,10,{T + 6},0.5\n")
    write(
        "room.csv",
        "p_date,live_id,streamer_id,live_type,start_timestamp,end_timestamp,live_content_category,live_name_id\n"
        f"20250505,100,10,1,{T - 10},{T + 10},game,5\n20250505,101,11,1,{T - 9},,,\n",
    )
    write("user.csv", "user_id,accu_watch_live_cnt\n1,999\n")
    write("streamer.csv", "streamer_id,accu_play_cnt\n10,999\n")
    np.save(tmp_path / "title_embeddings.npy", np.zeros((6, 128)))
    return tmp_path


EVENTS = [
    ("COMMENT", T + 4, 1, 10, 100, 0.0),
    ("ENTER", T, 1, 10, 100, 1.0),
    ("ENTER", T + 1, 2, 11, 101, 1.0),
    ("ENTER", T + 2, 3, 11, 101, 1.0),
    ("EXPOSURE", T, 1, 10, 100, 1.0),
    ("EXPOSURE", T + 1, 2, 11, 101, 1.0),
    ("EXPOSURE", T + 2, 3, 11, 101, 1.0),
    ("EXPOSURE", T + 3, 1, 11, 101, 1.0),
    ("GIFT", T + 6, 1, 10, 100, 0.5),
    ("LEAVE", T + 1, 2, 11, 101, 0.0),
    ("LEAVE", T + 1500, 1, 10, 100, 1.5),
    ("LIKE", T + 5, 1, 10, 100, 1.0),
    ("ROOM_END", T + 10, -1, 10, 100, 1.0),
    ("ROOM_START", T - 10, -1, 10, 100, 1.0),
    ("ROOM_START", T - 9, -1, 11, 101, 1.0),
]


def test_every_table_gives_its_events(folder, read):
    assert read(KuaiLiveSource(folder)) == (EVENTS, [])


def test_the_streamer_may_be_called_author(folder, write, read):
    for path in folder.glob("*.csv"):
        write(path.name, path.read_text().replace("streamer_id", "author_id"))
    assert read(KuaiLiveSource(folder)) == (EVENTS, [])


def test_a_table_without_the_streamer_takes_the_rooms(folder, write, read):
    write("like.csv", f"user_id,live_id,timestamp\n1,100,{T + 5}\n")
    assert read(KuaiLiveSource(folder)) == (EVENTS, [])


def test_what_the_data_set_does_not_tell_is_off(folder):
    source = KuaiLiveSource(folder)
    assert source.schema.metric_names == ("exposure", "audience", "gift_value", "gift_count", "comment", "like")
    assert source.schema.task_names == ("ctr", "evtr", "lvtr", "ltr", "cmtr", "gtr")
    assert [note.partition(":")[0] for note in source.notes] == [
        "KuaiLive tells no follows, shares, orders or clicks on products",
        "KuaiLive has no segment embeddings",
    ]


def test_a_missing_table_switches_off_what_needs_it(folder):
    (folder / "gift.csv").unlink()
    (folder / "negative.csv").unlink()
    source = KuaiLiveSource(folder)
    assert source.schema.metric_names == ("audience", "comment", "like")
    assert source.schema.task_names == ("evtr", "lvtr", "ltr", "cmtr")
    assert "gift.csv is missing: metric gift_value, metric gift_count, task gtr are off" in source.notes
    assert "negative.csv is missing: metric exposure, task ctr are off" in source.notes


def test_a_folder_without_clicks_is_an_error(folder):
    (folder / "click.csv").unlink()
    with pytest.raises(
        SourceError, match=r"click.csv is missing; expected a folder in the layout of KuaiLive, with click"
    ):
        KuaiLiveSource(folder)


def test_a_click_that_was_watched_for_days_is_a_dead_letter(folder, write, read):
    write("click.csv", f"{IDS},watch_live_time\n1,100,10,{T},1500\n1,100,10,{T},1500000000\n")
    events, letters = read(KuaiLiveSource(folder), "click")
    assert [event[:2] for event in events] == [("ENTER", T), ("EXPOSURE", T), ("LEAVE", T + 1500)]
    reason = "watch_live_time should be milliseconds from 0 to 86400000 (24 hours), got '1500000000'"
    assert [(letter.line, letter.reason) for letter in letters] == [(3, reason)]


def test_malformed_rows_become_dead_letters(folder, write, read):
    path = write(
        "like.csv",
        f"{IDS},extra\n1,100,10,{T + 5},\n1,100,10\n-1,100,10,{T},x\n1,,10,{T},x\n1,abc,10,soon,x\n1,100,10,7,x\n",
    )
    events, letters = read(KuaiLiveSource(folder))
    assert events == EVENTS
    assert {letter.file for letter in letters} == {str(path)}
    time = "a time from 2000 to 2099 (ISO 8601, or seconds or milliseconds since 1970)"
    assert [(letter.line, letter.reason, letter.text) for letter in letters] == [
        (3, "3 columns instead of the header's 5", "1,100,10"),
        (4, "user_id should be an id (an integer >= 0), got '-1'", f"-1,100,10,{T},x"),
        (5, "live_id should be an id (an integer >= 0), got ''", f"1,,10,{T},x"),
        (
            6,
            f"live_id should be an id (an integer >= 0), got 'abc'; timestamp should be {time}, got 'soon'",
            "1,abc,10,soon,x",
        ),
        (7, f"timestamp should be {time}, got '7'", "1,100,10,7,x"),
    ]
