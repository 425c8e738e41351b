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
from serving.canary.split import SIDES, CanarySplit
from serving.canary.state import CanaryState
from serving.protos import serving_api_pb2 as api
from serving.ranking import Ranking
from serving.ranking_error import RankingError

ROOT = Path(__file__).parents[2]
CONFIG = CanaryConfig("trial", share=0.5, min_impressions=1000)
SPLIT = CanarySplit(0.5, "trial")


class FakeLabels:
    """Labels, and what was done to them; the server has the versions 7, 8 and 9."""

    def __init__(self, **labels):
        self.labels, self.done, self.available = labels, [], {7, 8, 9}

    @property
    def served(self):
        return self.labels

    def promote(self, version, label):
        self.done.append(("promote", version, label))
        self.labels[label] = version

    def withdraw(self, label):
        self.done.append(("withdraw", label))
        self.labels.pop(label, None)


def _lines(generator, rows, side, effect=1.0, inflation=1.0, split=SPLIT, **more):
    """Outcomes of users of a side; `effect` on clicks, `inflation` of scores."""
    chance = generator.uniform(0.2, 0.6, rows)
    clicked = generator.random(rows) < chance * effect
    scores = np.clip(chance * effect * inflation, 0, 1)
    users = generator.integers(0, 10**9, 4 * rows + 200)
    users = users[split.on_canary(users) == (side == "canary")][:rows]
    version = 8 if side == "canary" else 7
    said = {"experiment": split.salt, "version": version, "fell_back": False}
    return [
        json.dumps(said | {"user_id": int(user), "score": float(score), "label": int(label)} | more)
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
    decision = trial.decide(labels.served, now_ms=2_000_000)
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
    decision = trial.decide(labels.served, now_ms=2_000_000)
    assert decision.action == "roll_back"
    trial.act(decision, labels)
    assert labels.labels == {"stable": 7}
    again = Canary(tmp_path / "canary.json")
    assert (again.state.phase, again.state.reasons) == ("rolled_back", decision.reasons)
    assert again.decide(labels.served).reasons == ("version 8 is rolled_back already",)


def test_what_broke_off_between_two_labels_is_done_again(tmp_path, trial, labels):
    class Broken(FakeLabels):
        def withdraw(self, label):
            raise OSError("the server went")

    broken = Broken(stable=7, canary=8)
    with pytest.raises(OSError, match="went"):
        trial.act(Decision("promote", ("why",)), broken)
    assert broken.labels == {"stable": 8, "canary": 8}
    for again in (trial, Canary(tmp_path / "canary.json")):
        assert (again.state.phase, again.split.share) == ("promoting", 0.0)
        # An end by the rule, or by the labels, which have moved half: what was begun counts.
        assert again.decide(broken.served, now_ms=10**15) == Decision("promote", ("why",))
    with pytest.raises(ValueError, match=r"version 8 is on trial already \(promoting\)"):
        Canary.start(tmp_path / "canary.json", 9, CONFIG, labels)
    again.act(again.decide(broken.served), labels)
    assert labels.labels == {"stable": 8} and labels.done[1:] == [("promote", 8, "stable"), ("withdraw", "canary")]
    assert Canary(tmp_path / "canary.json").state.phase == "promoted"


def test_a_roll_back_that_broke_off_is_never_a_promotion(tmp_path, trial, labels):
    class Broken(FakeLabels):
        def withdraw(self, label):
            raise OSError("the server went")

    with pytest.raises(OSError, match="went"):
        trial.act(Decision("roll_back", ("why",)), Broken(stable=7, canary=8))
    trial.act(Decision("promote", ("by other outcomes",)), labels)
    assert (trial.state.phase, labels.labels) == ("rolled_back", {"stable": 7})
    assert trial.state.reasons == ("why",)


def test_a_label_that_moves_ends_the_trial(trial, labels):
    assert trial.decide(labels.served, now_ms=1_000_000).action == "go_on"
    moved = trial.decide({"stable": 7, "canary": 9}, now_ms=1_000_000)
    assert moved == Decision("roll_back", ("label 'canary' has moved from version 8 to 9 during the trial",))
    moved = trial.decide({"stable": 9}, now_ms=1_000_000)
    assert moved.action == "roll_back"
    assert moved.reasons == (
        "label 'stable' has moved from version 7 to 9 during the trial",
        "label 'canary' has moved from version 8 to None during the trial",
    )


@pytest.mark.parametrize("served", [{}, {"stable": 8}, {"stable": 6}])
def test_a_trial_needs_another_version_to_compare_with(tmp_path, served):
    labels = FakeLabels(**served)
    with pytest.raises(ValueError, match="version 8 can't be tried: the stable version is"):
        Canary.start(tmp_path / "canary.json", 8, CONFIG, labels)
    assert not labels.done and not (tmp_path / "canary.json").exists()


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
    config = CanaryConfig("another trial", share=0.5)
    assert Canary.start(tmp_path / "canary.json", 9, config, labels).state.version == 9


def test_a_trial_is_decided_by_its_own_outcomes(tmp_path, trial, labels):
    """Both follow one folder, to which late lines of the first trial are still added during the second one."""
    path, folder = tmp_path / "canary.json", tmp_path / "outcomes"
    folder.mkdir()
    generator = np.random.default_rng(0)
    good = _lines(generator, 60_000, "stable") + _lines(generator, 60_000, "canary", 1.1)
    _write(folder / "1.jsonl", good[20_000:100_000])
    trial.read(folder)
    trial.act(Decision("roll_back", ("why",)), labels)
    with pytest.raises(ValueError, match="there was a trial with the salt 'trial' already"):
        Canary.start(path, 9, CONFIG, labels)
    second = Canary.start(path, 9, CanaryConfig("second", share=0.5, min_impressions=1000), labels, now_ms=1_000_000)
    _write(folder / "1.jsonl", good[:20_000] + good[100_000:])
    _write(folder / "2.jsonl", _lines(generator, 30, "canary", split=second.split, version=9))
    assert second.read(folder) == 120_030
    assert second.status()["sides"]["canary"]["impressions"] == 30
    assert (second.state.refused, second.decide(labels.served, now_ms=1_000_000).action) == (120_000, "go_on")
    assert "experiment 'trial' isn't this one, which is 'second'" in second.state.refusal
    second.act(Decision("roll_back", ("why",)), labels)
    with pytest.raises(ValueError, match="there was a trial with the salt 'trial' already"):
        Canary.start(path, 8, CONFIG, labels)


def test_a_canary_that_fails_is_rolled_back(tmp_path, trial, labels):
    """The stable version stands in for it, so clicks and calibration are as good as ever."""
    generator = np.random.default_rng(0)
    _write(tmp_path / "outcomes.jsonl", _lines(generator, 60_000, "stable") + _lines(generator, 42_000, "canary"))
    _write(tmp_path / "outcomes.jsonl", _lines(generator, 18_000, "canary", fell_back=True, version=7))
    trial.read(tmp_path / "outcomes.jsonl")
    decision = trial.decide(labels.served, now_ms=2_000_000)
    assert decision.action == "roll_back" and "is 30.0 percentage points larger than the stable" in decision.reasons[0]
    sides = trial.status()["sides"]
    assert [sides[name]["impressions"] for name in SIDES] == [60_000, 42_000, 18_000, 0, 0]


@pytest.mark.parametrize(("stable_failed", "action"), [(60, "roll_back"), (600, "go_on")])
def test_what_fails_as_often_for_the_stable_version_is_no_failure_of_the_canary(
    tmp_path, trial, labels, stable_failed, action
):
    """Rooms that have ended, or a store that is away."""
    generator, outcomes = np.random.default_rng(0), tmp_path / "outcomes.jsonl"
    _write(outcomes, _lines(generator, 3000, "stable") + _lines(generator, 3000, "canary"))
    _write(outcomes, _lines(generator, 600, "canary", error="NOT_FOUND"))
    _write(outcomes, _lines(generator, stable_failed, "stable", error="NOT_FOUND"))
    assert trial.read(outcomes) == 6600 + stable_failed
    sides = trial.status()["sides"]
    assert [sides[name]["impressions"] for name in SIDES] == [3000, 3000, 0, 600, stable_failed]
    assert (trial.state.refused, trial.decide(labels.served, now_ms=2_000_000).action) == (0, action)


def test_files_of_one_name_in_two_folders_are_two(tmp_path, trial):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _write(tmp_path / name / "1.jsonl", _lines(np.random.default_rng(0), 10, "canary"))
    assert [trial.read(tmp_path / name) for name in ("a", "b")] == [10, 10]
    assert trial.read(tmp_path / "a" / ".." / "b" / "1.jsonl") == 0


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
    (on,), (off,) = ([user for user in range(99) if SPLIT.label(user) == side][:1] for side in ("canary", "stable"))
    good = {"experiment": "trial", "user_id": on, "version": 8, "fell_back": False, "score": 0.5, "label": 1}
    stable = {**good, "user_id": off, "version": 7}
    wrong = [
        "{",
        "[]",
        json.dumps({**good, "experiment": "another"}),
        json.dumps({name: value for name, value in good.items() if name != "experiment"}),
        json.dumps({name: value for name, value in good.items() if name != "version"}),
        json.dumps({name: value for name, value in good.items() if name != "fell_back"}),
        json.dumps({**good, "fell_back": 0}),
        json.dumps({**good, "fell_back": True}),  # the canary's version
        json.dumps({**good, "version": 7}),
        json.dumps({**stable, "fell_back": True}),
        json.dumps({**stable, "version": 8}),
        json.dumps({**good, "score": 1.5}),
        json.dumps({**good, "score": float("nan")}),
        json.dumps({**good, "label": 2}),
        json.dumps({**good, "user_id": "1"}),
        json.dumps({**good, "user_id": 2**64}),
        json.dumps({name: value for name, value in good.items() if name != "label"}),
        json.dumps({**good, "version": 9}),
    ]
    right = [good, stable, {**good, "fell_back": True, "version": 7}]
    _write(tmp_path / "outcomes.jsonl", [*map(json.dumps, right), *wrong])
    assert trial.read(tmp_path / "outcomes.jsonl") == len(wrong) + 3
    status = trial.status()
    assert status["refused"] == len(wrong)
    assert [side["impressions"] for side in status["sides"].values()] == [1, 1, 1, 0, 0]
    assert "version 9 isn't the canary's, which is 8" in status["refusal"]


def test_outcomes_that_can_not_be_read_hold_up_neither_the_others_nor_the_end(tmp_path, trial, labels):
    folder = tmp_path / "outcomes"
    folder.mkdir()
    generator = np.random.default_rng(0)
    _write(folder / "1.jsonl", _lines(generator, 30_000, "stable"))
    assert (trial.read(folder), trial.unread) == (30_000, None)
    (folder / "1.jsonl").write_text("")  # became shorter
    (folder / "2.jsonl").mkdir()
    _write(folder / "3.jsonl", _lines(generator, 60_000, "canary", 1.1) + _lines(generator, 30_000, "stable"))
    assert trial.read(folder) == 90_000
    assert "1.jsonl: has 0 bytes" in trial.unread and "2.jsonl" in trial.unread
    assert Canary(tmp_path / "canary.json").state.sides["canary"].impressions == 60_000, "it is written"
    decision = trial.decide(labels.served, now_ms=2_000_000)
    assert decision.action == "go_on" and decision.reasons[-1] == f"outcomes can't be read: {trial.unread}"
    assert trial.decide({"stable": 9, "canary": 8}, now_ms=2_000_000).action == "roll_back"
    late = trial.decide(labels.served, now_ms=10**12)
    assert late.action == "roll_back" and late.reasons[0] == "not decided within 86400 s"
    (folder / "1.jsonl").unlink()
    (folder / "2.jsonl").rmdir()
    assert (trial.read(folder), trial.unread) == (0, None)
    assert trial.decide(labels.served, now_ms=2_000_000).action == "promote"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 3}', '{"format": 2, "config": {"salt": "x"}}'])
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


@pytest.mark.parametrize(
    "code", ["NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "INTERNAL", "DEADLINE_EXCEEDED"]
)
def test_a_canary_that_fails_is_stood_in_for_within_the_deadline(code):
    fake = FakeRankingClient(canary=code)
    ranking = CanaryClient(fake, CanarySplit(1.0, "trial"), deadline_s=0.5).rank(1)
    assert (ranking.label, ranking.version) == ("stable", 7)
    assert [label for label, _ in fake.asked] == ["canary", "stable"]
    assert fake.asked[0][1] == 0.25, "there is time left for the stable version"
    assert 0.25 < fake.asked[1][1] <= 0.5


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
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

    def status(self, model_name):
        assert model_name == "m"
        states = {6: "END", 7: "AVAILABLE", 8: "LOADING"}
        return {version: SimpleNamespace(state=state) for version, state in states.items()}

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
    assert (labels.served, labels.available) == ({"stable": 7, "canary": 8}, {7})
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
    certificates: ClassVar[list]

    def __init__(self, *arguments):
        FakeContext.certificates.append(arguments[-1])

    def __enter__(self):
        return FakeContext.labels

    def __exit__(self, *_):
        pass


@pytest.fixture
def command(tmp_path, monkeypatch, labels):
    monkeypatch.setattr(FakeContext, "labels", labels, raising=False)
    monkeypatch.setattr(FakeContext, "certificates", [], raising=False)
    monkeypatch.setattr(serving.canary.command, "_labels", FakeContext)
    monkeypatch.setattr(serving.canary.command, "_served", lambda store: labels.served)

    def run(*arguments):
        return CliRunner().invoke(serving.canary.command.canary, [*arguments, "--state", str(tmp_path / "canary.json")])

    return run


def test_the_commands_drive_a_trial_from_start_to_end(tmp_path, command, labels):
    (tmp_path / "root.pem").write_text("a certificate")
    more = ("--salt", "trial", "--root-certificates", str(tmp_path / "root.pem"))
    started = command("start", "--version", "8", "--share", "0.5", "--min-impressions", "1000", "--json", *more)
    assert json.loads(started.output)["phase"] == "running"
    assert FakeContext.certificates == [tmp_path / "root.pem"]
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


def test_a_decision_goes_on_after_a_transient_error(tmp_path, command, labels, monkeypatch):
    Canary.start(tmp_path / "canary.json", 8, CONFIG, labels)
    outcomes, slept, whole = tmp_path / "outcomes.jsonl", [], labels.withdraw

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            generator = np.random.default_rng(0)
            _write(outcomes, _lines(generator, 5000, "stable") + _lines(generator, 5000, "canary", effect=0.5))
        labels.withdraw = fail if len(slept) == 2 else whole

    def fail(label):
        raise RankingError("UNAVAILABLE", "the server went")

    monkeypatch.setattr(serving.canary.command, "time", SimpleNamespace(sleep=sleep))
    arguments = ("decide", "--outcomes", str(outcomes), "--apply")
    assert command(*arguments).exit_code == 1
    result = command(*arguments, "--every", "30")
    assert (result.exit_code, slept, labels.labels) == (0, [30, 30, 30], {"stable": 7})
    assert result.output.count("no file or folder of outcomes here; deciding by what was read") == 2
    assert result.output.count("failed: the server went; trying again") == 1
    assert "roll back: CTR is certainly lower" in result.output


def test_outcomes_that_can_not_be_read_are_told_and_the_deadline_holds(tmp_path, command, trial, labels):
    """The trial began in 1970."""
    none = ("decide", "--outcomes", str(tmp_path / "none"))
    text = command(*none)
    assert text.exit_code == 1
    assert text.output.startswith(f"failed: {tmp_path / 'none'}: no file or folder of outcomes here; deciding by")
    assert "roll back: not decided within 86400 s" in text.output
    told = command(*none, "--json")
    assert told.exit_code == 1
    assert json.loads(told.output)["read_error"] == f"{tmp_path / 'none'}: no file or folder of outcomes here"
    ended = command(*none, "--json", "--apply", "--every", "30")
    assert (ended.exit_code, json.loads(ended.output)["phase"], labels.labels) == (0, "rolled_back", {"stable": 7})
    assert "read_error" not in json.loads(command("decide", "--json").output)


def test_the_commands_look_at_the_store(tmp_path):
    store = str(tmp_path / "none")
    with pytest.raises(ValueError, match="no online store here"):
        serving.canary.command._served(store)


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
    assert (tmp_path / "canary.json").stat().st_size < 400_000
    assert CanaryState.load(tmp_path / "canary.json").sides["canary"].impressions == 200_000
