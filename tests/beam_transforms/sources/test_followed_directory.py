import dataclasses
import json
import os
import threading
import time

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms import line_blocks
from beam_transforms.events import register_coders
from beam_transforms.line_format import MAX_LINE_BYTES
from beam_transforms.read_live_events import ReadLiveEvents
from beam_transforms.sources.followed_directory import DirectoryMark, FollowedDirectory
from beam_transforms.sources.source import SourceError
from beam_transforms.streamed_lines import dead_letter_line

T = 1_750_000_000_000


def line(user, time_ms=T):
    row = {"kind": "LIKE", "timestamp_ms": time_ms, "user_id": user, "author_id": 2, "live_id": 3}
    return json.dumps(row).encode() + b"\n"


def put(folder, name, data):
    (folder / f".{name}").write_bytes(data)
    (folder / f".{name}").rename(folder / name)


def follow(folder, **arguments):
    return FollowedDirectory(folder, **{"clock": lambda: T / 1000, "end_name": "END", **arguments})


def read(reader, started=False):
    """Everything there is: users and dead letters, by element."""
    found = []
    while reader.advance() if started or found else reader.start():
        parsed = reader.get_current()
        users = [] if parsed.events is None else parsed.events["user_id"].to_pylist()
        found.append((users, [(letter.line, letter.reason) for letter in parsed.dead_letters]))
    return found


def test_files_are_read_once_in_the_order_of_names(tmp_path):
    put(tmp_path, "2.jsonl", line(2) + line(3))
    put(tmp_path, "1.jsonl", line(1))
    for name in (".0.jsonl", "0.jsonl.tmp", "0.tmp", "0.json", "readme"):
        (tmp_path / name).write_bytes(line(9))
    reader = follow(tmp_path).create_reader(None, None)
    assert read(reader) == [([1], []), ([2, 3], [])]
    put(tmp_path, "3.jsonl", line(4).rstrip())
    put(tmp_path, "4.jsonl", b"")
    put(tmp_path, "5.jsonl", line(5))
    assert read(reader, started=True) == [([4], []), ([5], [])]
    assert not reader.advance()


def test_the_watermark_is_the_newest_time_and_never_goes_back(tmp_path):
    put(tmp_path, "1.jsonl", line(1, T - 5000) + line(1, T - 9000))
    put(tmp_path, "2.jsonl", line(2, T - 7000))
    put(tmp_path, "3.jsonl", b"damaged\n")
    put(tmp_path, "4.jsonl", line(3, T - 1000) + line(3, T - 2000))
    reader = follow(tmp_path).create_reader(None, None)
    assert reader.get_watermark() == MIN_TIMESTAMP
    seen = []
    while reader.start() if not seen else reader.advance():
        seen.append([int(time.micros // 1000 - T) for time in (reader.get_current_timestamp(), reader.get_watermark())])
    # An element is never behind the watermark before it, so no runner takes it for late.
    assert seen == [[-9000, -5000], [-5000, -5000], [-5000, -5000], [-2000, -1000]]


def test_a_producer_whose_clock_is_ahead_does_not_move_the_watermark(tmp_path):
    put(tmp_path, "1.jsonl", line(1, T) + line(2, T + 60_001) + line(3, T + 60_000))
    reader = follow(tmp_path).create_reader(None, None)
    reason = f"from the future: {T + 60_001} is 1 ms later than allowed"
    assert read(reader) == [([1, 3], [(2, reason)])]
    assert reader.get_watermark() == Timestamp(micros=(T + 60_000) * 1000)
    assert read(follow(tmp_path, future_ms=None).create_reader(None, None)) == [([1, 2, 3], [])]


def test_a_file_that_sorts_before_the_last_one_is_skipped_and_said_to_be(tmp_path):
    put(tmp_path, "5.jsonl", line(1))
    reader = follow(tmp_path).create_reader(None, None)
    assert read(reader) == [([1], [])]
    put(tmp_path, "4.jsonl", line(2))
    put(tmp_path, "6.jsonl", line(3))
    reason = "the file is skipped: it sorts before 5.jsonl, which was read before it appeared"
    assert read(reader, started=True) == [([], [(0, reason)]), ([3], [])]
    assert not reader.advance()


def test_names_that_are_not_utf8_are_read_and_told(tmp_path):
    put(tmp_path, os.fsdecode(b"2\xff.jsonl"), line(1) + b"damaged\n" + line(2))
    source = follow(tmp_path)
    reader = source.create_reader(None, None)
    assert reader.start()
    parsed = reader.get_current()
    assert parsed.events["user_id"].to_pylist() == [1, 2]
    assert dead_letter_line(dataclasses.asdict(parsed.dead_letters[0])).startswith(
        json.dumps({"file": f"{tmp_path}/2\\udcff.jsonl", "line": 2}).encode()[:-1]
    )
    put(tmp_path, "1.jsonl", line(3))
    assert read(reader, started=True) == [
        ([], [(0, "the file is skipped: it sorts before 2\\udcff.jsonl, which was read before it appeared")])
    ]
    coder = source.get_checkpoint_mark_coder()
    put(tmp_path, "3.jsonl", line(4))
    mark = coder.decode(coder.encode(reader.get_checkpoint_mark()))
    assert read(source.create_reader(None, mark)) == [([4], [])]


def test_files_that_are_read_may_go(tmp_path):
    put(tmp_path, "1.jsonl", line(1))
    source = follow(tmp_path)
    reader = source.create_reader(None, None)
    assert read(reader) == [([1], [])]
    (tmp_path / "1.jsonl").unlink()
    assert not reader.advance()
    put(tmp_path, "2.jsonl", line(2))
    assert read(source.create_reader(None, reader.get_checkpoint_mark())) == [([2], [])]


def test_a_file_that_goes_before_it_is_read_is_a_dead_letter(tmp_path):
    put(tmp_path, "1.jsonl", line(1))
    put(tmp_path, "2.jsonl", line(2))
    reader = follow(tmp_path).create_reader(None, None)
    assert reader.start()
    (tmp_path / "2.jsonl").unlink()
    reason = "the file can't be opened from byte 0 on: No such file or directory"
    assert read(reader, started=True) == [([], [(1, reason)])]


def test_the_stream_ends_with_the_file_that_says_so(tmp_path):
    (tmp_path / "END").touch()
    put(tmp_path, "1.jsonl", line(1))
    reader = follow(tmp_path).create_reader(None, None)
    assert read(reader) == [([1], [])]
    assert reader.get_watermark() == MAX_TIMESTAMP
    forever = follow(tmp_path, end_name=None).create_reader(None, None)
    assert read(forever) == [([1], [])]
    assert forever.get_watermark() == Timestamp(micros=T * 1000)


def test_a_line_without_end_is_cut_and_the_next_one_read(tmp_path, monkeypatch):
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", 2 << 20)
    size = 5 << 20
    put(tmp_path, "1.jsonl", line(1) + b"x" * size + b"\n" + line(2))
    assert read(follow(tmp_path).create_reader(None, None)) == [
        ([1], []),
        ([], [(2, f"a line of {size + 1} bytes; at most {MAX_LINE_BYTES} are read")]),
        ([2], []),
    ]
    put(tmp_path, "2.jsonl", b"y" * size)
    reader = follow(tmp_path).create_reader(None, DirectoryMark("1.jsonl"))
    assert read(reader) == [([], [(1, f"a line of {size} bytes; at most {MAX_LINE_BYTES} are read")])]


@given(
    st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=4), st.integers(40, 400), st.sets(st.integers(0, 30))
)
@settings(deadline=None, max_examples=60)
def test_wherever_it_stops_it_goes_on_behind_that(tmp_path_factory, files, block_bytes, stops):
    folder = tmp_path_factory.mktemp("follow")
    for number, users in enumerate(files):
        put(folder, f"{number}.jsonl", b"".join(line(user, T + user) for user in users))
    source = follow(folder)
    coder = source.get_checkpoint_mark_coder()
    before = line_blocks.BLOCK_BYTES
    line_blocks.BLOCK_BYTES = max(block_bytes, 110)
    try:
        reader, found, step = source.create_reader(None, None), [], 0
        more = reader.start()
        while more:
            found += reader.get_current().events["user_id"].to_pylist()
            if step in stops:
                watermark, mark = reader.get_watermark(), coder.decode(coder.encode(reader.get_checkpoint_mark()))
                assert mark == reader.get_checkpoint_mark()
                reader.close()
                reader = source.create_reader(None, mark)
                assert reader.get_watermark() == watermark
                more = reader.start()
            else:
                more = reader.advance()
            step += 1
    finally:
        line_blocks.BLOCK_BYTES = before
    assert found == [user for users in files for user in users]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="nowhere is not a folder; make it before it is followed"):
        follow(tmp_path / "nowhere").create_reader(None, None)


def test_a_pipeline_follows_the_directory_while_files_appear(tmp_path):
    register_coders()
    put(tmp_path, "1.jsonl", line(1) + b"damaged\n")

    def write():
        for number in (2, 3):
            time.sleep(0.1)
            put(tmp_path, f"{number}.jsonl", line(number, T + number))
        (tmp_path / "END").touch()

    writer = threading.Thread(target=write)
    writer.start()
    with beam.Pipeline("FnApiRunner") as pipeline:
        read_lines = pipeline | ReadLiveEvents(FollowedDirectory(tmp_path, end_name="END"), poll_s=0.05)
        users = read_lines.events | beam.FlatMap(lambda batch: batch["user_id"].to_pylist())
        assert_that(users, equal_to([1, 2, 3]))
        assert_that(read_lines.dead_letters | beam.Map(lambda letter: letter["line"]), equal_to([2]), "DeadLetters")
    writer.join()
