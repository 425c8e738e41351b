"""`foresight canary outcomes`: a simulated log and the rankings that led to it -> a decision."""

import json
import time

import filelock
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from beam_transforms.columnar import concatenate, take, to_columns
from beam_transforms.schema import EventKind
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.replay import Replay
from beam_transforms.sources.simulator import PRESETS, simulate
from serving.canary.canary import Canary
from serving.canary.client import CanaryClient
from serving.canary.command import canary
from serving.canary.config import CanaryConfig
from serving.canary.rule import decide
from serving.canary.served_log import ServedLog
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import SIDES, CanarySplit
from serving.ranking import RankedRoom, Ranking
from serving.ranking_error import RankingError

HORIZON_MS, LENGTH_MS = 300_000, 3_600_000
SALT = "version-8"
NO_CANARY, NO_STABLE = 3, 7  # users whose id is a multiple get no answer of it


class FakeLabels:
    served = {"stable": 7, "canary": 8}  # noqa: RUF012
    available = (7, 8)

    def promote(self, version, label):
        pass


class FakeRankingClient:
    """Each room's score follows from user and room; some users get no answer of one version, or of both."""

    def rank(self, user_id, live_ids, limit, *, label, deadline_s):
        if user_id % (NO_CANARY if label == "canary" else NO_STABLE) == 0:
            raise RankingError("INTERNAL" if label == "canary" else "UNAVAILABLE", "because")
        version = {"stable": 7, "canary": 8}[label]
        rooms = tuple(RankedRoom(room, {"ctr": _score(user_id, room)}, 1.0) for room in live_ids)
        return Ranking(user_id, version, rooms, label)


def _score(user, room):
    return (user * 31 + room * 17) % 97 / 100


def _side(user, split):
    """None for who got no answer."""
    if split.label(user) == "canary" and user % NO_CANARY:
        return "canary"
    if user % NO_STABLE == 0:
        return None
    return "fell_back" if split.label(user) == "canary" else "stable"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The beginning of a small log as a folder that is followed, and its events in the order of time."""
    folder = tmp_path_factory.mktemp("log")
    simulate(PRESETS["tiny"], folder / "data")
    source = open_source("kuailive_m3", folder / "data")
    events = concatenate([to_columns([batch]) for partition in source.partitions() for batch in source.read(partition)])
    until_ms = int(events["timestamp_ms"].min()) + LENGTH_MS
    Replay(source, folder / "live", speed=0, until_ms=until_ms).run()
    events = take(events, np.flatnonzero(events["timestamp_ms"] < until_ms))
    return folder / "live", take(events, np.argsort(events["timestamp_ms"], kind="stable"))


def _impressions(events):
    """(user, room, time, clicked) of each impression whose label is known, by a loop over the events."""
    shown, open_until = {}, {}
    newest = int(events["timestamp_ms"].max())
    order = sorted(
        zip(*(events[name].tolist() for name in ("timestamp_ms", "kind", "user_id", "live_id")), strict=True),
        key=lambda row: (row[0], row[1]),  # an exposure before the entry of its millisecond
    )
    for time_ms, kind, user, room in order:
        if kind == EventKind.EXPOSURE:
            shown[user, room, time_ms] = 0
            open_until[user, room] = time_ms
        elif kind == EventKind.ENTER:
            since = open_until.get((user, room))
            if since is not None and time_ms < since + HORIZON_MS:
                shown[user, room, since] = 1
    return [(*key, clicked) for key, clicked in shown.items() if key[2] + HORIZON_MS <= newest]


def _serve(folder, events, split):
    """Ranks before each impression: its room, and one that isn't shown."""
    now_s = 0.0
    exposures = take(events, np.flatnonzero(events["kind"] == EventKind.EXPOSURE))
    with ServedLog(folder / "1.jsonl", clock=lambda: now_s) as served:
        client = CanaryClient(FakeRankingClient(), split, served_log=served)
        for time_ms, user, room in zip(
            *(exposures[name].tolist() for name in ("timestamp_ms", "user_id", "live_id")), strict=True
        ):
            now_s = (time_ms - 1000) / 1000
            try:
                client.rank(user, [room, 10**9 + room])
            except RankingError:
                continue
    return served.lost


def test_from_served_rankings_and_events_to_a_decision(tmp_path, log):
    live, events = log
    config = CanaryConfig(SALT, share=0.5, min_impressions=100)
    split = CanarySplit(config.share, SALT)
    assert _serve(tmp_path / "served", events, split) == 0
    trial = Canary.start(tmp_path / "canary.json", 8, config, FakeLabels(), now_ms=0)
    arguments = ["--served", tmp_path / "served", "--source", live, "--out", tmp_path / "out"]
    done = CliRunner().invoke(canary, ["outcomes", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    counts = json.loads(done.output.splitlines()[-1])

    expected = {name: SideStatistics() for name in SIDES}
    rows = {name: [] for name in expected}
    unserved = 0
    for user, room, _, clicked in _impressions(events):
        side = _side(user, split)
        unserved += side is None
        if side is not None:
            rows[side].append((_score(user, room), clicked))
            expected[side].add([user], *np.array(rows[side][-1:]).T)
    assert counts["unserved"] == unserved > 0
    assert counts["outcomes"] == sum(map(len, rows.values())) > 300
    assert counts["waiting"] > 0 and counts["failed"] > 0 and counts["dead_letters"] == 0

    read = trial.read(tmp_path / "out")
    found, status = trial.state.sides, trial.status()["sides"]
    for side in ("stable", "canary", "fell_back"):
        scores, labels = np.array(rows[side]).T
        assert status[side]["impressions"] == len(labels) > 30
        assert status[side]["ctr"] == labels.mean() and 0 < labels.mean() < 1
        assert status[side]["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=2e-3)
        np.testing.assert_allclose(found[side].sums, expected[side].sums)
    failed = {name: found[name] for name in ("failed", "stable_failed")}
    assert min(side.impressions for side in failed.values()) > 0
    assert sum(side.impressions for side in failed.values()) == counts["failed"]
    assert (trial.state.refused, read) == (0, counts["outcomes"] + counts["failed"])
    decision = trial.decide(FakeLabels.served, now_ms=1000)
    assert decision.reasons == decide(config, expected | failed, 1).reasons
    assert "CTR changes by" in decision.reasons[0], decision

    again = CliRunner().invoke(canary, ["outcomes", *map(str, arguments)])
    assert again.output.startswith(f"{counts['outcomes']:,} outcomes, {counts['failed']:,} requests without an answer")
    assert trial.read(tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}/none", "is not a folder; make it before it is followed"),
        ("http://here/topic", "not a Kafka topic; give kafka://host:port"),
    ],
)
def test_what_is_no_source_ends_with_a_clear_error(tmp_path, source, message):
    arguments = ["--served", tmp_path, "--source", source.format(tmp_path), "--out", tmp_path / "out"]
    done = CliRunner().invoke(canary, ["outcomes", *map(str, arguments)])
    assert done.exit_code == 1 and message in done.output


def test_a_second_command_on_the_same_folder_is_refused(tmp_path):
    (tmp_path / "live").mkdir()
    (tmp_path / "served").mkdir()
    (tmp_path / "out").mkdir()
    arguments = [f"--{name}={tmp_path / folder}" for name, folder in (("served", "served"), ("source", "live"))]
    arguments += [f"--out={tmp_path / 'out'}", "--idle-s=0"]
    with filelock.FileLock(tmp_path / "out" / ".lock"):
        done = CliRunner().invoke(canary, ["outcomes", *arguments])
    assert done.exit_code == 1 and "Error: another process writes outcomes to" in done.output
    assert CliRunner().invoke(canary, ["outcomes", *arguments]).exit_code == 0


def test_the_clock_of_a_replay_tells_which_rankings_are_from_the_future(tmp_path):
    """Ten times as fast as life, from an hour of long ago."""
    (tmp_path / "live").mkdir()
    (tmp_path / "served").mkdir()
    first_ms = 1_750_000_000_000
    pace = {"first_ms": first_ms, "speed": 10, "started_ms": time.time() * 1000 - 1000}
    (tmp_path / "live" / "replay.json").write_text(json.dumps(pace))
    event = {"kind": "LIKE", "timestamp_ms": first_ms, "user_id": 1, "author_id": 1, "live_id": 1, "value": 1.0}
    (tmp_path / "live" / "0.jsonl").write_text(json.dumps(event) + "\n")
    (tmp_path / "live" / "END").touch()
    with ServedLog(tmp_path / "served" / "1.jsonl") as served:  # by the clock on the wall
        served.failed(SALT, 1, "UNAVAILABLE")
    arguments = [f"--{name}={tmp_path / name}" for name in ("served", "live", "out")]
    arguments[1] = arguments[1].replace("--live", "--source")
    done = CliRunner().invoke(canary, ["outcomes", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["dead_letters"] == 1, done.output
    (letter,) = map(json.loads, next((tmp_path / "out" / "dead_letters").glob("*.jsonl")).read_text().splitlines())
    assert "from the future" in letter["reason"]
