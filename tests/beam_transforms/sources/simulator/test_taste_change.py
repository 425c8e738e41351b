"""The flip of preferences: who never flips writes the same bytes; before it nothing is another; after it all turns."""

import dataclasses
import hashlib

import numpy as np
import pytest
from click.testing import CliRunner

from beam_transforms.cli import simulate as command
from beam_transforms.sources.simulator import PRESETS, SimulatorConfig, simulate
from beam_transforms.sources.simulator.authors import Authors
from beam_transforms.sources.simulator.content_states import ContentStates
from beam_transforms.sources.simulator.users import Users

from .conftest import TINY, build_platform, read_table

_PINNED = "5afebb5bb7f71bb4ccdb368496dbc8e7ef442d8efd860a3034e1ded74f78e054"
"""Digest of the sessions of TINY, from before tastes could change."""

_START_MS = 1_748_887_200_000


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_without_a_change_the_log_is_the_one_it_always_was(tiny, tmp_path):
    names = ("user_id", "live_id", "live_play_start_timestamp", "live_play_end_timestamp")
    sessions = read_table(tiny.folder, "live_interaction.csv")
    digest = hashlib.sha256(b"".join(sessions[name].to_numpy().astype("<i8").tobytes() for name in names))
    assert digest.hexdigest() == _PINNED
    never = dataclasses.replace(TINY, taste_change_s=TINY.duration_s + 1)
    simulate(never, tmp_path / "never")
    assert _contents(tmp_path / "never") == _contents(tiny.folder)


def test_a_change_is_seen_from_its_moment_on_only(tiny, tmp_path):
    at_s = 5_400
    simulate(dataclasses.replace(TINY, taste_change_s=at_s), tmp_path / "changed")
    at_ms = TINY.start_ms + 1000 * at_s
    # Time passes in blocks of up to an hour, in which users' visits are drawn side by side.
    settled_ms = TINY.start_ms + 3_600_000
    for name, time in (("live_show.parquet", "show_timestamp"), ("live_like.csv", "like_timestamp")):
        before, after = (read_table(folder, name).to_pylist() for folder in (tiny.folder, tmp_path / "changed"))
        early = [row for row in before if row[time] < settled_ms]
        assert early == [row for row in after if row[time] < settled_ms]
        assert early
        assert [r for r in before if r[time] >= at_ms] != [r for r in after if r[time] >= at_ms]


def test_what_was_liked_is_disliked_and_the_other_way_round():
    """The same users in the same rooms: match, the author's pull and following say no where they said yes."""
    platform = build_platform(3)
    rng = np.random.default_rng(0)
    users, visits, rooms = platform.users, platform.visits, platform.rooms
    who = rng.integers(0, users.count, 60_000)
    now = np.full(len(who), platform.now)
    nobody = np.full((len(who), 8), -1)
    shares = {}
    for name, change_ms in (("before", None), ("after", platform.now)):
        users._taste_change_ms = change_ms
        shown = visits._show(who, now, np.zeros(len(who)), nobody)
        author = rooms.author[shown.room]
        content = rooms.offset[shown.room] + (now - rooms.start_ms[shown.room]) // 30_000
        match = visits.match(who, author)[np.arange(len(who)), rooms.state[content]]
        for what, liked in (
            ("match", match > 0),
            ("author", platform.authors.entry[author] > 0),
            ("follows", shown.follows),
        ):
            shares[name, what] = (shown.entered[liked].mean(), shown.entered[~liked].mean())
    for what in ("match", "author", "follows"):
        liked, other = shares["before", what]
        assert liked > 1.2 * other
        liked, other = shares["after", what]
        assert liked < other / 1.2


def test_liking_is_one_before_the_change_and_minus_one_from_then_on():
    rng = np.random.default_rng(0)
    states, behaviour = ContentStates(rng), PRESETS["tiny"].behaviour
    authors = Authors(20, states, behaviour, rng)
    users = Users(10, states, authors, behaviour, rng, _START_MS + 5)
    found = users.liking(_START_MS + np.array([[0, 4], [5, 6]]))
    assert found.tolist() == [[1, 1], [-1, -1]]
    assert found.dtype == np.float32
    assert Users(10, states, authors, behaviour, rng).liking(np.array([0, 2**60])).tolist() == [1, 1]


def test_a_change_before_the_start_is_refused_and_the_moment_is_told():
    with pytest.raises(ValueError, match="taste_change_s must be None or not negative, got -1"):
        SimulatorConfig(users=1, authors=1, taste_change_s=-1)
    assert SimulatorConfig(users=1, authors=1, taste_change_s=60, start_ms=1000).taste_change_ms == 61_000
    assert SimulatorConfig(users=1, authors=1).taste_change_ms is None


def test_the_command_takes_the_moment(tmp_path):
    arguments = ["--preset", "tiny", "--seed", "7", "--taste-change-s", "5400", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    simulate(dataclasses.replace(TINY, taste_change_s=5_400), tmp_path / "same")
    assert _contents(tmp_path / "out") == _contents(tmp_path / "same")
