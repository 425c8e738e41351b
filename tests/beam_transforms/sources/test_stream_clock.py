"""StreamClock: real time, replays at a pace, and replays without one."""

import json

import pytest

from beam_transforms.sources.stream_clock import StreamClock


def test_in_real_time_events_happen_when_they_say(tmp_path):
    for folder in (None, tmp_path):
        clock = StreamClock(folder, clock=lambda: 100.0)
        assert clock.happened_s(95_000) == 95.0
        assert clock.lag_s(95_000) == 5.0
        assert clock.event_now_s() == clock.now_s() == 100.0


def test_a_replay_tells_its_pace_once_it_has_begun(tmp_path):
    clock = StreamClock(tmp_path, clock=lambda: 1000.0)
    assert clock.event_now_s() == 1000.0
    pace = {"first_ms": 500_000, "started_ms": 990_000, "speed": 10.0, "shift_ms": 0}
    (tmp_path / "replay.json").write_text(json.dumps(pace))
    assert clock.happened_s(500_000) == 990.0
    assert clock.happened_s(550_000) == 995.0
    assert clock.lag_s(550_000) == 5.0
    assert clock.event_now_s() == 600.0


def test_a_replay_as_fast_as_it_goes_has_no_lag(tmp_path):
    (tmp_path / "replay.json").write_text('{"first_ms": 5, "started_ms": 0, "speed": 0}')
    clock = StreamClock(tmp_path)
    assert clock.lag_s(0) is None
    assert clock.event_now_s() > 2_000_000_000


def test_a_pace_that_can_not_be_read_is_refused(tmp_path):
    (tmp_path / "replay.json").write_text("{}")
    with pytest.raises(ValueError, match="doesn't tell the pace"):
        StreamClock(tmp_path).lag_s(0)
