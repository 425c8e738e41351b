import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from beam_transforms.schema import CHAT_SCHEMA, EventKind
from beam_transforms.sources.chat_log import ChatLogSource
from beam_transforms.sources.source import SourceError

HEADER = "session_id,date,offset_s,user,mod,vip,sub,n_chars,emotes\n"
DAY = 1_522_022_400_000
"""2018-03-26T00:00:00Z in milliseconds."""

LIVE_CHAT = Path(__file__).parents[3].parent / "shared" / "data" / "live_chat"


def test_messages_become_events(tmp_path, write, read):
    write(
        "chat.csv.gz",
        HEADER
        + "7,2018-03-26,2000,5,0,0,0,4,\n"
        + '7,2018-03-26,2001.5,6,1,0,1,0,"LUL  Kappa LUL"\n'
        + "8,2018-03-27,0,5,,,,,\n",
    )
    source = ChatLogSource(tmp_path)
    assert source.schema == CHAT_SCHEMA
    assert source.notes == ()
    assert read(source) == (
        [
            ("COMMENT", DAY + 2_000_000, 5, 0, 7, 4.0),
            ("COMMENT", DAY + 2_001_500, 6, 0, 7, 0.0),
            ("COMMENT", DAY + 86_400_000, 5, 0, 8, 0.0),
            ("EMOTE", DAY + 2_001_500, 6, 0, 7, 3.0),
            ("MODERATOR_COMMENT", DAY + 2_001_500, 6, 0, 7, 1.0),
            ("ROOM_START", DAY, -1, 0, 7, 1.0),
            ("ROOM_START", DAY + 86_400_000, -1, 0, 8, 1.0),
            ("SUBSCRIBER_COMMENT", DAY + 2_001_500, 6, 0, 7, 1.0),
        ],
        [],
    )


def test_a_session_over_several_blocks_starts_once(tmp_path, write, read, monkeypatch):
    monkeypatch.setattr("beam_transforms.sources.tables.csv_reader.BLOCK_BYTES", 50_000)
    rows = [f"{1 + second // 9000},2018-03-26,{second},{second % 7},0,0,0,3,\n" for second in range(20_000)]
    write("chat.csv", HEADER + "".join(rows))
    events, letters = read(ChatLogSource(tmp_path))
    kinds = collections.Counter(event[0] for event in events)
    assert kinds == {"COMMENT": 20_000, "ROOM_START": 3}
    assert letters == []


def test_other_files_are_skipped_with_a_note_and_columns_may_be_missing(tmp_path, write, read):
    write("chat.csv", "user,offset_s,date,session_id,more\n5,10,2018-03-26,7,x\n")
    write("sessions.csv", "session_id,date,n_messages\n7,2018-03-26,1\n")
    write("nothing.csv", "")
    write("chat.csv.gz", HEADER + "1,2018-03-26,1,1,0,0,0,1,\n")
    write("readme.txt", "hello")
    source = pickle.loads(pickle.dumps(ChatLogSource(tmp_path)))  # noqa: S301
    assert source.notes == (
        "chat.csv.gz is skipped: chat.csv is read",
        "nothing.csv is skipped: it is empty (0 bytes)",
        "sessions.csv is skipped: it lacks the columns offset_s, user (it has session_id, date, n_messages)",
        "no log has a column mod: metric moderator_message is off",
        "no log has a column sub: metric subscriber_message is off",
        "no log has a column n_chars: metric character is off",
        "no log has a column emotes: metric emote is off",
    )
    assert source.schema.metric_names == ("message", "chatter", "new_chatter")
    assert read(source)[0] == [("COMMENT", DAY + 10_000, 5, 0, 7, 0.0), ("ROOM_START", DAY, -1, 0, 7, 1.0)]


def test_files_without_a_header_that_can_be_read_are_skipped_with_a_note(tmp_path, write, read):
    write("chat.csv", HEADER + "7,2018-03-26,1,5,0,0,0,4,\n")
    write("long.csv", "x" * 200_000)
    write("old.csv", "a,b\r1,2\r")
    (tmp_path / "z.csv.gz").write_bytes(b"no gzip")
    source = ChatLogSource(tmp_path)
    long, old, zipped = source.notes
    assert long.startswith("long.csv is skipped: can't be read as a CSV file: no line with the names of columns in its")
    assert old.startswith("old.csv is skipped: can't be read as a CSV file: no line with the names of columns in its")
    assert zipped.startswith("z.csv.gz is skipped: can't be read as a CSV file: the gzip stream is truncated or")
    assert [event[0] for event in read(source)[0]] == ["COMMENT", "ROOM_START"]


def test_a_file_may_have_any_name(tmp_path, read):
    (tmp_path / os.fsdecode(b"caf\xe9.csv")).write_text(HEADER + "7,2018-03-26,1,5,0,0,0,4,\n7\n")
    (tmp_path / os.fsdecode(b"\xff.csv")).touch()
    source = ChatLogSource(tmp_path)
    assert source.notes == ("\\udcff.csv is skipped: it is empty (0 bytes)",)
    events, (letter,) = read(source)
    assert len(events) == 2
    assert letter.file == f"{tmp_path}/caf\\udce9.csv"


def test_a_folder_without_a_log_is_an_error(tmp_path, write):
    with pytest.raises(SourceError, match=r"with the columns session_id, date, offset_s, user .*there is no CSV file"):
        ChatLogSource(tmp_path)
    write("sessions.csv", "session_id,date,n_messages\n")
    with pytest.raises(SourceError, match=r"sessions.csv is skipped: .*it has session_id, date, n_messages"):
        ChatLogSource(tmp_path)


def test_malformed_messages_become_dead_letters(tmp_path, write, read):
    good = "7,2018-03-26,1,5,0,0,0,4,\n"
    write(
        "chat.csv",
        HEADER
        + good
        + "7,2018-03-26,-1,5,0,0,0,4,\n7,26.3.2018,1,5,0,0,0,4,\n7,2018-03-26,1,bob,0,0,0,4,\n"
        + "7,2018-03-26,1,5,maybe,0,0,4,\n7,2018-03-26,9e11,5,0,0,0,4,\n7,2018-03-26,1,5,0,0,0,-4,\n7,2018\n"
        + good,
    )
    events, letters = read(ChatLogSource(tmp_path))
    assert [event[0] for event in events] == ["COMMENT", "COMMENT", "ROOM_START"]
    assert sorted((letter.line, letter.reason) for letter in letters) == [
        (3, "offset_s should be a number from 0 to 1e+12, got '-1'"),
        (4, "date should be a date from 2000 to 2099 (ISO 8601), got '26.3.2018'"),
        (5, "user should be an id (an integer >= 0), got 'bob'"),
        (6, "mod should be 0, 1, true or false, got 'maybe'"),
        (7, "date and offset_s should give a time before 2100"),
        (8, "n_chars should be a count from 0 to 100000, got '-4'"),
        (9, "2 columns instead of the header's 9"),
    ]


def test_a_foreign_partition_is_an_error(tmp_path, write):
    write("chat.csv", HEADER)
    source = ChatLogSource(tmp_path)
    (partition,) = source.partitions()
    with pytest.raises(ValueError, match=r"take them from partitions\(\)"):
        list(source.read(type(partition)("elsewhere.csv", partition.table)))


def test_real_chat_is_read_whole():
    if not LIVE_CHAT.is_dir():
        pytest.skip(f"needs the real chat log in {LIVE_CHAT}; put the folder there and run this test again")
    source = ChatLogSource(LIVE_CHAT)
    counts, values = np.zeros(17, dtype=np.int64), np.zeros(17)
    for partition in source.partitions():
        for batch in source.read(partition):
            kinds = batch["kind"].to_numpy()
            counts += np.bincount(kinds, minlength=17)
            values += np.bincount(kinds, batch["value"].to_numpy(), minlength=17)
    assert counts[EventKind.COMMENT] == 3_428_364
    assert counts[EventKind.ROOM_START] == 828
    # Counted in the file by other means.
    assert counts[EventKind.SUBSCRIBER_COMMENT] == 891_590
    assert counts[EventKind.MODERATOR_COMMENT] == 100_359
    assert values[EventKind.EMOTE] == 2_482_024
    assert source.notes == (
        "greatsphynx_sessions.csv is skipped: it lacks the columns offset_s, user "
        "(it has session_id, date, n_messages, n_users, length_s)",
    )
