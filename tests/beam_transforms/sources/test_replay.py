"""Replay: what is read back is the log, moved in time; the pace; what is left of a replay that was killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from apache_beam.utils.timestamp import MAX_TIMESTAMP
from click.testing import CliRunner
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from beam_transforms.columnar import concatenate, to_columns
from beam_transforms.replay_command import replay
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS
from beam_transforms.sources import time_sorted_log
from beam_transforms.sources.followed_directory import FollowedDirectory
from beam_transforms.sources.replay import CLOCK_NAME, END_NAME, Replay
from beam_transforms.sources.simulator import SimulatorConfig, simulate
from beam_transforms.sources.source import DeadLetter, Partition, Source, SourceError
from tests.beam_transforms.event_logs import NOON_MS
from tests.beam_transforms.live_logs import WIDTH, chosen, live_log

KINDS = ("events", "segments", "products")
WALL_S = 1_800_000_017.25
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


class LogSource(Source):
    """A log of the three kinds in memory, each cut into batches in no order of time."""

    def __init__(self, log, seed=0, letters=0):
        rng = np.random.default_rng(seed)
        self.schema, self.notes, self._letters = LIVE_SCHEMA, (), letters
        self._batches = {}
        for kind, batch in log.items():
            rows = rng.permutation(batch.num_rows)
            self._batches[kind] = [chosen(batch, part) for part in np.array_split(rows, 5) if len(part)]

    def _partitions(self, kind):
        return [Partition(str(number), kind) for number in range(len(self._batches.get(kind, [])))]

    def partitions(self):
        return self._partitions("events")

    def segment_partitions(self):
        return self._partitions("segments")

    def product_partitions(self):
        return self._partitions("products")

    def read(self, partition):
        if partition == Partition("0", "events"):
            yield from [DeadLetter("file", line, "damaged", "") for line in range(self._letters)]
        yield self._batches[partition.table][int(partition.path)]

    read_segments = read_products = read


class Wall:
    """A wall clock that passes only while someone sleeps; each look at it takes `look_s`."""

    def __init__(self, look_s=0.0):
        self.now_s, self.look_s = WALL_S, look_s

    def __call__(self):
        self.now_s += self.look_s
        return self.now_s

    def sleep(self, seconds):
        assert seconds > 0
        self.now_s += seconds


def run(log, folder, speed, shift=False, wall=None, **arguments):
    wall = wall or Wall()
    return Replay(LogSource(log), folder, speed, shift, clock=wall, sleep=wall.sleep, **arguments).run()


def follow(folder, end_name=END_NAME):
    """What a follower reads: columns by kind in the order of arrival, the watermark after each element, the reader."""
    source = FollowedDirectory(folder, embedding_width=WIDTH, future_ms=None, end_name=end_name)
    reader = source.create_reader(None, None)
    found, newest = {kind: [] for kind in KINDS}, []
    more = reader.start()
    while more:
        parsed = reader.get_current()
        assert not parsed.dead_letters
        for kind in KINDS:
            if getattr(parsed, kind) is not None:
                found[kind].append(to_columns([getattr(parsed, kind)]))
        newest.append((parsed.oldest_ms, parsed.newest_ms))
        more = reader.advance()
    return {kind: concatenate(parts) for kind, parts in found.items() if parts}, newest, reader


def rows(columns):
    """Rows as sorted tuples of bytes: equal only if every value is."""
    return sorted(zip(*([row.tobytes() for row in values] for values in columns.values()), strict=True))


def moved(log, shift_ms, kind):
    columns = to_columns([log[kind]])
    return {**columns, "timestamp_ms": columns["timestamp_ms"] + shift_ms}


@given(st.integers(0, 99), st.sampled_from((0, 0.5, 1, 7.3, 60)), st.booleans(), st.integers(20_000, 900_000))
@settings(deadline=None, phases=PHASES, max_examples=12)
def test_what_is_read_back_is_the_log_moved_by_whole_windows(tmp_path_factory, seed, speed, shift, bucket_ms):
    log, folder = live_log(seed, minutes=4, events=80), tmp_path_factory.mktemp("replay") / "live"
    before = time_sorted_log.BUCKET_MS
    time_sorted_log.BUCKET_MS = bucket_ms
    try:
        report = run(log, folder, speed, shift)
    finally:
        time_sorted_log.BUCKET_MS = before
    found, newest, reader = follow(folder)
    assert report.shift_ms % WINDOW_MS == 0
    assert bool(report.shift_ms) == shift
    for kind in KINDS:
        assert rows(found[kind]) == rows(moved(log, report.shift_ms, kind)), kind
    assert report.rows == {kind: log[kind].num_rows for kind in KINDS}
    # In the order of event time, from file to file and inside.
    times = [time_ms for pair in newest for time_ms in pair]
    assert times == sorted(times)
    assert (report.first_ms, report.last_ms) == (times[0], times[-1])
    assert reader.get_watermark() == MAX_TIMESTAMP
    assert {path.name for path in folder.iterdir()} == {
        *(f.name for f in folder.glob("*.jsonl")), END_NAME, CLOCK_NAME
    }  # fmt: skip
    lines = b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl"))).splitlines()
    told = [json.loads(line)["timestamp_ms"] for line in lines]
    assert told == sorted(told)


@pytest.mark.parametrize("speed", [1, 10])
def test_a_second_is_written_when_it_is_over_and_event_time_starts_now(tmp_path, monkeypatch, speed):
    wall, log, written = Wall(), live_log(1, minutes=4), []

    def write(self, name, data):
        written.append((wall.now_s, name, data))

    monkeypatch.setattr(Replay, "_write", write)
    report = run(log, tmp_path, speed, shift=True, wall=wall)
    (_, _, pace), *files, (_, end, _) = written
    pace = json.loads(pace)
    assert end == END_NAME
    assert 0 <= pace["started_ms"] / 1000 - WALL_S < WINDOW_MS / 1000
    assert pace["started_ms"] == pace["first_ms"] == report.first_ms
    assert pace["speed"] == speed
    for at_s, _, data in files:
        for line in data.splitlines():
            # An event is there between 0 and 1 s after it happened.
            happened_s = (pace["started_ms"] + (json.loads(line)["timestamp_ms"] - pace["first_ms"]) / speed) / 1000
            assert 0 <= at_s - happened_s <= 1.001
    assert (report.late_files, report.worst_lag_s) == (0, 0)
    assert report.wall_seconds == pytest.approx((report.last_ms - report.first_ms) / 1000 / speed, abs=1)


@pytest.mark.parametrize(("speed", "file_s"), [(1 / 3, 0.999), (0.0015, 1.3334), (0.0002, 5.0)])
def test_odd_and_slow_paces_are_those_that_are_told(tmp_path, monkeypatch, speed, file_s):
    wall, log, written = Wall(), live_log(1, minutes=4), []
    monkeypatch.setattr(Replay, "_write", lambda self, name, data: written.append((wall.now_s, name, data)))
    report = run(log, tmp_path, speed, wall=wall)
    pace, files = json.loads(written[0][2]), written[1:-1]
    for at_s, _, data in files:
        last_ms = json.loads(data.splitlines()[-1])["timestamp_ms"]
        happened_s = (pace["started_ms"] + (last_ms - pace["first_ms"]) / pace["speed"]) / 1000
        assert -0.001 <= at_s - happened_s <= file_s + 0.001
    assert report.wall_seconds == pytest.approx((report.last_ms - report.first_ms) / 1000 / speed, abs=file_s + 0.01)


def test_a_replay_that_can_not_keep_up_says_so_and_drops_nothing(tmp_path):
    log, told = live_log(2, minutes=4), []
    report = run(log, tmp_path / "live", 10, wall=Wall(look_s=1.25), tell=told.append)
    found, _, _ = follow(tmp_path / "live")
    for kind in KINDS:
        assert rows(found[kind]) == rows(moved(log, 0, kind))
    assert report.late_files > 10
    assert report.worst_lag_s > 5
    assert told[0] == "306 events, 48 segments, 20 products, times moved by +0 s"
    assert all(" s behind at speed 10; nothing is left out" in line for line in told[1:])
    assert 1 <= len(told[1:]) < report.late_files  # now and then, not for each file


def test_a_part_of_the_log_and_rows_that_can_not_be_read(tmp_path):
    log = live_log(3)
    wall = Wall()
    source = LogSource(log, letters=3)
    arguments = {"from_ms": NOON_MS + 60_000, "until_ms": NOON_MS + 300_000, "clock": wall, "sleep": wall.sleep}
    report = Replay(source, tmp_path / "live", 0, **arguments).run()
    found, _, _ = follow(tmp_path / "live")
    for kind in KINDS:
        columns = to_columns([log[kind]])
        times = columns["timestamp_ms"] + (kind == "segments")
        inside = (times >= NOON_MS + 60_000) & (times < NOON_MS + 300_000)
        assert 0 < inside.sum() < len(inside)
        assert rows(found[kind]) == rows({name: values[inside] for name, values in columns.items()})
    assert report.dead_letters == 3
    with pytest.raises(SourceError, match=r"nothing to replay: 3 rows can't be read, no other row lies in \[0, 1\) ms"):
        Replay(source, tmp_path / "other", 0, from_ms=0, until_ms=1).run()


def test_a_folder_in_use_and_a_speed_that_is_none_are_refused(tmp_path):
    run(live_log(1, minutes=2), tmp_path, 0)
    with pytest.raises(ValueError, match=r"already holds .*; choose another folder or empty this one"):
        run(live_log(1, minutes=2), tmp_path, 0)
    for speed in (-1, float("nan"), float("inf"), 1e306, 1e-300):
        with pytest.raises(ValueError, match="speed must be 0"):
            Replay(LogSource({}), tmp_path, speed)


@given(st.integers(1, 30), st.booleans())
@settings(deadline=None, phases=PHASES, max_examples=8)
def test_a_replay_that_is_cut_short_leaves_the_beginning_of_the_log_in_whole_files(tmp_path_factory, write, renamed):
    """Stopped in the middle of a write, or between it and the renaming."""
    log, folder = live_log(4, minutes=8), tmp_path_factory.mktemp("replay") / "live"
    counted = iter(range(write))

    class Cut(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch:

        def cut(self, target):
            if next(counted, None) is None:
                raise Cut
            return self.rename(target)

        def cut_write(self, data):
            with self.open("wb") as file:
                if next(counted, None) is None:
                    file.write(data[: len(data) // 2])
                    raise Cut
                return file.write(data)

        patch.setattr(Path, "replace" if renamed else "write_bytes", cut if renamed else cut_write)
        try:
            run(log, folder, 10)
        except Cut:
            assert not (folder / END_NAME).exists()
        else:
            raise AssertionError("it wasn't cut")
    _require_beginning(folder, log)


def _require_beginning(folder, log):
    """Whole lines, and of the log all up to some time."""
    found, newest, _ = follow(folder, end_name=None)
    last_ms = newest[-1][1] if newest else -1
    for kind in KINDS:
        columns = moved(log, 0, kind)
        until = columns["timestamp_ms"] + (kind == "segments") <= last_ms
        expected = {name: values[until] for name, values in columns.items()}
        # Rows of the last millisecond are in one file, as all of a second are.
        assert rows(found[kind]) == rows(expected) if until.any() else kind not in found


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay") / "data"
    simulate(SimulatorConfig(users=200, authors=24, duration_s=3_600, start_ms=1_748_887_200_000), folder)
    return folder


def test_the_command_replays_hours_of_a_simulated_log(simulated, tmp_path):
    arguments = ["--input", str(simulated), "--output", str(tmp_path / "live"), "--speed", "0", "--json"]
    result = CliRunner().invoke(replay, [*arguments, "--from", "18.25", "--until", "18.5"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    begin_ms = 1_748_887_200_000 + 900_000
    assert begin_ms <= report["first_ms"] < report["last_ms"] < begin_ms + 900_000
    assert min(report["rows"].values()) > 10
    assert report["files"] == len(list((tmp_path / "live").glob("*.jsonl"))) == 30
    again = CliRunner().invoke(replay, arguments)
    assert again.exit_code == 1
    assert "choose another folder or empty this one" in again.output
    wrong = CliRunner().invoke(replay, [*arguments, "--from", "3", "--until", "2"])
    assert wrong.exit_code == 2
    assert "--from must be less than --until, got 3 and 2" in wrong.output
    for name in ("--from", "--until"):
        far = CliRunner().invoke(replay, [*arguments, name, "1e305"])
        assert (far.exit_code, "0<=x<=876600" in far.output) == (2, True)


@pytest.mark.slow
def test_a_killed_process_leaves_whole_files(simulated, tmp_path):
    folder = tmp_path / "live"
    code = f"from foresight import main; main(['replay', '--input', {str(simulated)!r}, '--output', {str(folder)!r}, "
    process = subprocess.Popen([sys.executable, "-c", code + "'--speed', '300', '--shift'])"])
    try:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("*.jsonl"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    files = sorted(folder.glob("*.jsonl"))
    assert 2 <= len(files) < 12
    assert not (folder / END_NAME).exists()
    for path in files:
        assert path.read_bytes().endswith(b"\n")
        assert all(json.loads(line)["kind"] for line in path.read_bytes().splitlines())
    shift_ms = json.loads((folder / CLOCK_NAME).read_bytes())["shift_ms"]
    assert shift_ms % WINDOW_MS == 0
    assert abs(json.loads(files[0].read_bytes().splitlines()[0])["timestamp_ms"] / 1000 - time.time()) < 150
