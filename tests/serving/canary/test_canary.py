import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import serving.canary.command
from serving.canary.canary import Canary
from serving.canary.client import CanaryClient
from serving.canary.config import CanaryConfig
from serving.canary.decision import Decision
from serving.canary.labels import CanaryLabels
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import CanarySplit
from serving.canary.state import CanaryState
from serving.protos import serving_api_pb2 as api
from serving.ranking import Ranking
from serving.ranking_error import RankingError

ROOT = Path(__file__).parents[2]
CONFIG = CanaryConfig("trial", share=0.5, min_impressions=1000)


class FakeLabels:
    """Labels, and what was done to them."""

    def __init__(self, **labels):
        self.labels, self.done = labels, []

    def promote(self, version, label):
        self.done.append(("promote", version, label))
        self.labels[label] = version

    def withdraw(self, label):
        self.done.append(("withdraw", label))
        self.labels.pop(label, None)


def _lines(generator, rows, side, effect=1.0, inflation=1.0, **more):
    chance = generator.uniform(0.2, 0.6, rows)
    clicked = generator.random(rows) < chance * effect
    scores = np.clip(chance * effect * inflation, 0, 1)
    users = generator.integers(0, 10**9, rows)
    return [
        json.dumps({"user_id": int(user), "side": side, "score": float(score), "label": int(label)} | more)
        for user, score, label in zip(users, scores, clicked, strict=True)
    ]


def _write(path, lines):
    with path.open("a") as file:
        file.writelines(line + "\n" for line in lines)


@pytest.fixture
def labels():
    return FakeLabels(stable=7)


@pytest.fixture
def trial(tmp_path, labels):
    return Canary.start(tmp_path / "canary.json", 8, CONFIG, labels, now_ms=1_000_000)


def test_a_start_gives_the_label_and_is_remembered(tmp_path, trial, labels):
    assert labels.labels == {"stable": 7, "canary": 8}
    again = Canary(tmp_path / "canary.json")
    assert (again.state.version, again.state.config, again.state.started_ms) == (8, CONFIG, 1_000_000)
    assert again.split.share == 0.5


def test_a_good_version_is_promoted(tmp_path, trial, labels):
    generator = np.random.default_rng(0)
    _write(tmp_path / "outcomes.jsonl", _lines(generator, 60_000, "stable") + _lines(generator, 60_000, "canary", 1.1))
    assert trial.read(tmp_path / "outcomes.jsonl") == 120_000
    decision = trial.decide(now_ms=2_000_000)
    assert decision.action == "promote"
    trial.act(decision, labels)
    assert labels.labels == {"stable": 8}
    assert labels.done[1:] == [("promote", 8, "stable"), ("withdraw", "canary")]
    assert Canary(tmp_path / "canary.json").state.phase == "promoted"
    assert trial.split.share == 0.0


def test_a_bad_version_is_rolled_back(tmp_path, trial, labels):
    generator = np.random.default_rng(0)
    lines = _lines(generator, 10_000, "stable") + _lines(generator, 10_000, "canary", inflation=1.6)
    _write(tmp_path / "outcomes.jsonl", lines)
    trial.read(tmp_path / "outcomes.jsonl")
    decision = trial.decide(now_ms=2_000_000)
    assert decision.action == "roll_back"
    trial.act(decision, labels)
    assert labels.labels == {"stable": 7}
    again = Canary(tmp_path / "canary.json")
    assert (again.state.phase, again.state.reasons) == ("rolled_back", decision.reasons)
    assert again.decide().reasons == ("version 8 is rolled_back already",)


def test_what_broke_off_between_two_labels_is_done_again(tmp_path, trial, labels):
    class Broken(FakeLabels):
        def withdraw(self, label):
            raise OSError("the server went")

    with pytest.raises(OSError, match="went"):
        trial.act(Decision("promote", ("why",)), Broken(stable=7))
    again = Canary(tmp_path / "canary.json")
    assert again.state.phase == "running"
    again.act(Decision("promote", ("why",)), labels)
    assert labels.labels == {"stable": 8}


def test_nothing_is_done_while_it_goes_on_or_when_it_has_ended(trial, labels):
    trial.act(Decision("go_on", ()), labels)
    assert trial.state.phase == "running"
    trial.act(Decision("roll_back", ("why",)), labels)
    done = list(labels.done)
    trial.act(Decision("promote", ("why",)), labels)
    assert labels.done == done


def test_one_version_is_tried_at_a_time(tmp_path, trial, labels):
    with pytest.raises(ValueError, match="version 8 is on trial already"):
        Canary.start(tmp_path / "canary.json", 9, CONFIG, labels)
    trial.act(Decision("roll_back", ("why",)), labels)
    assert Canary.start(tmp_path / "canary.json", 9, CONFIG, labels).state.version == 9


def test_a_start_that_is_repeated_keeps_what_was_counted(tmp_path, trial, labels):
    _write(tmp_path / "outcomes.jsonl", _lines(np.random.default_rng(0), 10, "canary"))
    trial.read(tmp_path / "outcomes.jsonl")
    again = Canary.start(tmp_path / "canary.json", 8, CONFIG, labels)
    assert again.state.sides["canary"].impressions == 10


def test_a_folder_is_followed_line_by_line(tmp_path, trial):
    folder = tmp_path / "outcomes"
    folder.mkdir()
    lines = _lines(np.random.default_rng(0), 30, "canary")
    _write(folder / "1.jsonl", lines[:10])
    _write(folder / "2.jsonl", lines[10:15])
    (folder / "3.jsonl.part").write_text("not yet")
    assert trial.read(folder) == 15
    with (folder / "2.jsonl").open("a") as file:
        file.write(lines[15] + "\n" + lines[16][:20])
    assert trial.read(folder) == 1
    with (folder / "2.jsonl").open("a") as file:
        file.write(lines[16][20:] + "\n")
    _write(folder / "3.jsonl", lines[17:])
    assert Canary(tmp_path / "canary.json").read(folder) == 14
    assert Canary(tmp_path / "canary.json").state.sides["canary"].impressions == 30


def test_lines_that_cannot_be_used_are_counted_with_the_reason(tmp_path, trial):
    good = {"user_id": 1, "side": "canary", "score": 0.5, "label": 1}
    wrong = [
        "{",
        "[]",
        json.dumps({**good, "side": "left"}),
        json.dumps({**good, "score": 1.5}),
        json.dumps({**good, "score": float("nan")}),
        json.dumps({**good, "label": 2}),
        json.dumps({**good, "user_id": "1"}),
        json.dumps({**good, "user_id": 2**64}),
        json.dumps({"user_id": 1, "side": "canary", "score": 0.5}),
        json.dumps({**good, "version": 9}),
    ]
    _write(tmp_path / "outcomes.jsonl", [*wrong, json.dumps(good), json.dumps({**good, "version": 8})])
    assert trial.read(tmp_path / "outcomes.jsonl") == len(wrong) + 2
    status = trial.status()
    assert (status["refused"], status["sides"]["canary"]["impressions"]) == (len(wrong), 2)
    assert "version 9 isn't the canary's, which is 8" in status["refusal"]


def test_outcomes_that_became_shorter_are_refused(tmp_path, trial):
    file = tmp_path / "outcomes.jsonl"
    _write(file, _lines(np.random.default_rng(0), 3, "canary"))
    trial.read(file)
    file.write_text("")
    with pytest.raises(ValueError, match="outcomes are only ever added"):
        trial.read(file)
    with pytest.raises(FileNotFoundError, match="no file or folder of outcomes"):
        trial.read(tmp_path / "none")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "config": {"salt": "x"}}'])
def test_a_file_that_is_no_state_is_refused(tmp_path, content):
    (tmp_path / "canary.json").write_text(content)
    with pytest.raises(ValueError, match="not the state of a canary"):
        Canary(tmp_path / "canary.json")


def test_without_a_start_there_is_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no canary was started here; `foresight canary start`"):
        Canary(tmp_path / "canary.json")


@given(
    rows=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(0, 1), st.booleans()), max_size=60),
    cut=st.integers(0, 60),
)
@settings(phases=(Phase.generate,))
def test_statistics_add_up_and_survive_the_file(tmp_path_factory, rows, cut):
    users, scores, clicked = (np.array([row[column] for row in rows]) for column in range(3))
    whole, parts = SideStatistics(), SideStatistics()
    whole.add(users, scores, clicked)
    parts.add(users[:cut], scores[:cut], clicked[:cut])
    parts = SideStatistics.from_json(json.loads(json.dumps(parts.to_json())))
    parts.add(users[cut:], scores[cut:], clicked[cut:])
    np.testing.assert_allclose(parts.sums, whole.sums, atol=1e-12)
    assert (parts.auc, parts.impressions, parts.clicks) == (whole.auc, len(rows), sum(row[2] for row in rows))
    assert parts.log_loss == pytest.approx(whole.log_loss)


def test_auc_and_log_loss_are_those_of_scikit_learn():
    from sklearn.metrics import log_loss, roc_auc_score

    generator = np.random.default_rng(3)
    scores = generator.beta(1, 6, 5000)
    clicked = generator.random(5000) < scores
    side = SideStatistics()
    side.add(np.arange(5000), scores, clicked)
    assert side.auc == pytest.approx(roc_auc_score(clicked, scores), abs=1e-3)
    assert side.log_loss == pytest.approx(log_loss(clicked, scores))


@pytest.mark.parametrize(
    ("users", "scores", "clicked", "message"),
    [([1], [0.5, 0.5], [1], "expected as many"), ([1], [1.5], [1], "must be prob"), ([1], [0.5], [3], "must be prob")],
)
def test_wrong_statistics_are_refused(users, scores, clicked, message):
    with pytest.raises(ValueError, match=message):
        SideStatistics().add(np.array(users), np.array(scores), np.array(clicked))


@pytest.mark.slow
def test_a_reader_that_is_killed_counts_every_line_once(tmp_path, trial):
    """Killed at many moments while it follows a folder, and started again."""
    folder = tmp_path / "outcomes"
    folder.mkdir()
    generator = np.random.default_rng(0)
    code = (
        "import sys; from pathlib import Path; from serving.canary.canary import Canary\n"
        "c = Canary(Path(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "while True: c.read(Path(sys.argv[2]))"
    )
    rows = 0
    for round_ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "canary.json"), str(folder)], cwd=ROOT, stdout=subprocess.PIPE
        )
        process.stdout.readline()
        for part in range(8):
            lines = _lines(generator, 400, "canary")
            (folder / "part").write_text("\n".join(lines) + "\n")
            (folder / "part").rename(folder / f"{round_:02}-{part}.jsonl")
            rows += len(lines)
            time.sleep(generator.uniform(0, 0.02))
        process.kill()
        process.wait()
        process.stdout.close()
    last = Canary(tmp_path / "canary.json")
    last.read(folder)
    assert last.state.sides["canary"].impressions == rows


class FakeRankingClient:
    """Answers for a label, unless that is to fail."""

    def __init__(self, **errors):
        self.errors, self.asked = errors, []

    def rank(self, user_id, live_ids, limit, *, label, deadline_s):
        self.asked.append((label, deadline_s))
        if label in self.errors:
            raise RankingError(self.errors[label], "because")
        return Ranking(user_id, {"stable": 7, "canary": 8}[label], (), label)


def test_users_are_ranked_by_the_version_of_their_side():
    split = CanarySplit(0.3, "trial")
    client = CanaryClient(FakeRankingClient(), split)
    versions = [client.rank(user).version for user in range(300)]
    assert versions == [8 if split.label(user) == "canary" else 7 for user in range(300)]
    assert set(versions) == {7, 8}


@pytest.mark.parametrize("code", ["NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "INTERNAL"])
def test_a_canary_that_fails_is_stood_in_for_within_the_deadline(code):
    fake = FakeRankingClient(canary=code)
    ranking = CanaryClient(fake, CanarySplit(1.0, "trial"), deadline_s=0.5).rank(1)
    assert (ranking.label, ranking.version) == ("stable", 7)
    assert [label for label, _ in fake.asked] == ["canary", "stable"]
    assert 0 < fake.asked[1][1] <= 0.5


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"])
def test_trouble_that_is_not_the_versions_is_not_asked_for_twice(code):
    fake = FakeRankingClient(canary=code)
    with pytest.raises(RankingError):
        CanaryClient(fake, CanarySplit(1.0, "trial")).rank(1)
    assert len(fake.asked) == 1


class FakeStore:
    def __init__(self, labels, sizes):
        self.served = SimpleNamespace(labels=labels, foresight_sizes=sizes)

    def set_served(self, labels, foresight_sizes):
        self.served = SimpleNamespace(labels=dict(labels), foresight_sizes=dict(foresight_sizes))


class FakeService:
    def __init__(self):
        self.told = []

    def reload(self, configs):
        self.told.append([(config.name, dict(config.version_labels)) for config in configs])


def test_a_label_is_withdrawn_from_the_store_the_server_and_its_configuration(tmp_path):
    text = """model_config_list {
      config { name: "other" base_path: "/o" version_labels { key: "canary" value: 3 } }
      config { name: "m" base_path: "/m" version_labels { key: "stable" value: 7 }
               version_labels { key: "canary" value: 8 } }
    }"""
    (tmp_path / "models.config").write_text(text)
    store, service = FakeStore({"stable": 7, "canary": 8}, {7: 4, 8: 4}), FakeService()
    labels = CanaryLabels(FakeLabels(), store, service, tmp_path / "models.config", "m")
    for _ in range(2):  # again, as after a crash
        labels.withdraw("canary")
    assert store.served.labels == {"stable": 7}
    assert store.served.foresight_sizes == {7: 4, 8: 4}
    assert service.told == [[("other", {"canary": 3}), ("m", {"stable": 7})]] * 2
    written = text_format.Parse((tmp_path / "models.config").read_text(), api.ModelServerConfig())
    assert [dict(model.version_labels) for model in written.model_config_list.config] == [{"canary": 3}, {"stable": 7}]


class FakeContext:
    """Stands in for what moves labels in the commands."""

    labels: ClassVar[FakeLabels]

    def __init__(self, *_):
        pass

    def __enter__(self):
        return FakeContext.labels

    def __exit__(self, *_):
        pass


@pytest.fixture
def command(tmp_path, monkeypatch, labels):
    monkeypatch.setattr(FakeContext, "labels", labels, raising=False)
    monkeypatch.setattr(serving.canary.command, "_labels", FakeContext)

    def run(*arguments):
        return CliRunner().invoke(serving.canary.command.canary, [*arguments, "--state", str(tmp_path / "canary.json")])

    return run


def test_the_commands_drive_a_trial_from_start_to_end(tmp_path, command, labels):
    started = command("start", "--version", "8", "--share", "0.5", "--min-impressions", "1000", "--json")
    assert json.loads(started.output)["phase"] == "running"
    generator = np.random.default_rng(0)
    outcomes = tmp_path / "outcomes.jsonl"
    _write(outcomes, _lines(generator, 500, "stable") + _lines(generator, 500, "canary"))
    assert command("decide", "--outcomes", str(outcomes)).output.startswith("go on: stable has 500 of 1,000")
    _write(outcomes, _lines(generator, 5000, "stable") + _lines(generator, 5000, "canary", effect=0.5))
    untold = command("decide", "--outcomes", str(outcomes), "--json")
    assert json.loads(untold.output)["action"] == "roll_back"
    assert labels.labels == {"stable": 7, "canary": 8}, "only --apply moves labels"
    applied = json.loads(command("decide", "--apply", "--json").output)
    assert (applied["action"], applied["phase"], applied["lines"]) == ("roll_back", "rolled_back", 0)
    assert labels.labels == {"stable": 7}
    status = command("status")
    assert status.output.startswith("version 8: rolled_back, 50.0% of users\n  CTR is certainly lower")
    assert "5,500" in status.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status"], "no canary was started here"),
        (["start", "--version", "8", "--share", "2"], "a canary needs share"),
    ],
)
def test_what_can_not_be_done_ends_with_a_clear_error(command, arguments, message):
    result = command(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and message in result.output and "Traceback" not in result.output


def test_the_state_is_small(tmp_path, trial):
    for side in trial.state.sides.values():
        generator = np.random.default_rng(0)
        side.add(generator.integers(0, 10**9, 200_000), generator.random(200_000), generator.integers(0, 2, 200_000))
    trial.state.write(tmp_path / "canary.json")
    assert (tmp_path / "canary.json").stat().st_size < 200_000
    assert CanaryState.load(tmp_path / "canary.json").sides["canary"].impressions == 200_000
