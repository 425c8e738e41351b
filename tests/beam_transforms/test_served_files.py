"""ServedFiles: each line is read once, as far as is asked for, whatever becomes of the files."""

import json
from pathlib import Path

import pytest

from beam_transforms import served_files
from beam_transforms.served_files import ServedFiles
from tests.beam_transforms.event_logs import NOON_MS

HOUR_MS = 3_600_000


def _line(time_ms, user=17):
    said = {"timestamp_ms": time_ms, "experiment": "trial", "user_id": user, "version": 8, "fell_back": True}
    return json.dumps(said | {"ctr": {"3": 0.25, "5": 1}}).encode() + b"\n"


LINE = _line(NOON_MS)


def _times(files, until_ms=NOON_MS + HOUR_MS):
    """Times of the rankings that are read, in milliseconds after noon."""
    return [time_ms - NOON_MS for block in files.read(until_ms) for time_ms in block.parsed.times_ms.tolist()]


@pytest.fixture
def lines_a_block(monkeypatch):
    monkeypatch.setattr(served_files, "_BLOCK_BYTES", len(LINE) + len(LINE) // 2)


def test_a_line_longer_than_a_block_does_not_stop_the_reading(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINE + b"x" * (9 << 20) + b"\n" + LINE + LINE[:-1])
    files = ServedFiles(tmp_path, {}, [])
    parsed = [block.parsed for block in files.read(NOON_MS + 1)]
    assert sum(block.rankings for block in parsed) == 2
    letters = [letter for block in parsed for letter in block.dead_letters]
    assert {letter.line for letter in letters} == {2} and "bytes; at most" in letters[0].reason
    assert files.places["a.jsonl"][:2] == ((tmp_path / "a.jsonl").stat().st_size - len(LINE) + 1, 4)


@pytest.mark.usefixtures("lines_a_block")
def test_a_file_is_read_until_the_time_that_is_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"".join(_line(NOON_MS + number) for number in range(50)))
    files = ServedFiles(tmp_path / "a.jsonl", {}, [])
    # The middle one of the last 100 times.
    for until, last in ((10, 20), (10, 20), (15, 30), (99, 49), (99, 49)):
        read = _times(files, NOON_MS + until)
        assert read == [] or read[-1] == last
    assert sorted(files.places) == ["a.jsonl"]


@pytest.mark.usefixtures("lines_a_block")
@pytest.mark.parametrize("wrong", [0, 3, 9])
def test_a_line_ahead_of_its_time_holds_up_no_other(tmp_path, wrong):
    path = tmp_path / "a.jsonl"
    times = list(range(10))
    times[wrong] = 24 * HOUR_MS
    files = ServedFiles(tmp_path, {}, [])
    for time_ms in times:
        with path.open("ab") as file:
            file.write(_line(NOON_MS + time_ms))
        assert _times(files) == [time_ms]
    again = ServedFiles(tmp_path, {}, [])
    assert _times(again) == times


def test_a_line_from_the_future_by_the_clock_of_the_events_is_a_dead_letter(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINE + _line(NOON_MS + 60_001) + _line(NOON_MS + 60_000))
    (block,) = ServedFiles(tmp_path, {}, [], clock=lambda: NOON_MS / 1000).read(NOON_MS + HOUR_MS)
    assert [letter.line for letter in block.parsed.dead_letters] == [2]
    assert "1 ms later than allowed" in block.parsed.dead_letters[0].reason


@pytest.mark.parametrize("lines", [1, 2, 5])
@pytest.mark.parametrize("is_rewritten", [False, True])
def test_a_name_that_is_used_again_is_read_from_its_start(tmp_path, lines, is_rewritten):
    """Shorter than before, as long and longer; by a new file, which may get the old one's inode, or in its place."""
    path = tmp_path / "12.jsonl"
    path.write_bytes(LINE + LINE)
    files = ServedFiles(tmp_path, {}, [])
    assert _times(files) == [0, 0]
    if not is_rewritten:
        path.unlink()
    path.write_bytes(b"".join(_line(NOON_MS + HOUR_MS + number) for number in range(lines)))
    resumed = ServedFiles(tmp_path, files.places, files.names)
    for reader in (files, resumed):
        assert _times(reader, NOON_MS + 2 * HOUR_MS) == [HOUR_MS + number for number in range(lines)]
        assert _times(reader, NOON_MS + 2 * HOUR_MS) == []


def test_a_file_that_was_cut_is_read_from_its_start(tmp_path):
    """As a loss of power does; what is read twice counts once, see `OutcomeStage`."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(_line(NOON_MS + number) for number in range(9)))
    files = ServedFiles(tmp_path, {}, [])
    assert _times(files) == list(range(9))
    path.write_bytes(b"".join(_line(NOON_MS + number) for number in range(6)))
    assert _times(files) == list(range(6))
    with path.open("ab") as file:
        file.write(_line(NOON_MS + 9))
    assert _times(files) == [9]


def test_a_file_that_goes_is_forgotten(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(LINE)
    files = ServedFiles(tmp_path, {}, [])
    assert _times(files) == [0, 0]
    (tmp_path / "a.jsonl").unlink()
    assert _times(files) == [] and list(files.places) == ["b.jsonl"]

    def gone(self, mode):
        raise FileNotFoundError(self)

    with monkeypatch.context() as patch:  # after it was listed
        patch.setattr(Path, "open", gone)
        assert _times(files) == [] and files.places == {}


def test_what_is_no_file_is_passed_over(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    (tmp_path / "b.jsonl").write_bytes(LINE)
    assert _times(ServedFiles(tmp_path, {}, [])) == [0]
