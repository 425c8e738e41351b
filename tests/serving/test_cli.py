import contextlib
import json
from typing import ClassVar

import pytest
import rich.console
from click.testing import CliRunner

import beam_transforms.online_store
import serving.client
from serving.cli import COMMANDS, rank, serve
from serving.ranking import RankedRoom, Ranking
from serving.ranking_error import RankingError
from serving.ranking_table import ranking_table


class FakeClient:
    """Stands in for RankingClient; notes how it was called."""

    calls: ClassVar[list] = []
    error: Exception | None = None

    def __init__(self, address, model_name, store, *, deadline_s, root_certificates):
        self.arguments = (address, model_name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def rank(self, user_id, live_ids, limit, *, version, label):
        FakeClient.calls.append((*self.arguments, user_id, limit, version, label))
        if FakeClient.error:
            raise FakeClient.error
        rooms = [RankedRoom(20, {"ctr": 0.5, "gtr": 0.25}, 0.75), RankedRoom(10, {"ctr": 0.125, "gtr": 0.0}, 0.125)]
        return Ranking(user_id, 7, tuple(rooms[:limit]), label, 1_750_000_020_000, 2)


@pytest.fixture
def fake(monkeypatch):
    store = beam_transforms.online_store
    monkeypatch.setattr(serving.client, "RankingClient", FakeClient)
    monkeypatch.setattr(store, "open_online_store", lambda location: contextlib.nullcontext())
    monkeypatch.setattr(FakeClient, "calls", [])
    monkeypatch.setattr(FakeClient, "error", None)
    return FakeClient


def test_commands():
    assert sorted(command.name for command in COMMANDS) == ["canary", "rank", "rooms", "serve"]


def test_rank_prints_a_table(fake):
    result = CliRunner().invoke(rank, ["--user", "3", "--address", "host:1", "--model-name", "m"])
    assert result.exit_code == 0
    assert [text for text in ("ctr", "gtr", "0.750", "0.125") if text not in result.output] == []
    assert result.output.index("0.750") < result.output.index("0.125")
    assert result.output.splitlines()[:3] == [
        "Rooms for user 3, model version 7 (stable)",
        "foresight as of 2025-06-15 15:07:00 UTC",
        "rooms without stored foresight, scored from raw features: 2",
    ]
    assert fake.calls == [("host:1", "m", 3, 10, None, "stable")]


@pytest.mark.parametrize(
    ("options", "asked"), [(["--version", "7"], (7, "stable")), (["--label", "canary"], (None, "canary"))]
)
def test_rank_asks_for_a_version_or_a_label(fake, options, asked):
    assert CliRunner().invoke(rank, ["--user", "3", *options]).exit_code == 0
    assert fake.calls[0][-2:] == asked


def test_foresight_rank_does_as_the_command(fake):
    import foresight

    ranking = foresight.rank(3, limit=1, label="canary", address="host:1")
    assert [room.live_id for room in ranking.rooms] == [20]
    assert fake.calls == [("host:1", "live_ranker", 3, 1, None, "canary")]


def test_rank_prints_json(fake):
    result = CliRunner().invoke(rank, ["--user", "3", "--limit", "1", "--json"])
    assert json.loads(result.output) == {
        "version": 7,
        "user_id": 3,
        "rooms": [{"live_id": 20, "scores": {"ctr": 0.5, "gtr": 0.25}, "score": 0.75}],
        "label": "stable",
        "foresight_end_ms": 1_750_000_020_000,
        "rooms_by_default": 2,
    }


def test_rank_ends_with_a_clear_error(fake):
    fake.error = RankingError("UNAVAILABLE", "no model server can be reached at 127.0.0.1:8500")
    result = CliRunner().invoke(rank, ["--user", "3"])
    assert result.exit_code == 1
    assert result.output == "Error: no model server can be reached at 127.0.0.1:8500\n"


def test_rank_without_a_store_ends_with_a_clear_error(tmp_path):
    result = CliRunner().invoke(rank, ["--user", "3", "--store", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert str(tmp_path / "none") in result.output
    assert "Traceback" not in result.output


def test_rank_with_a_store_that_does_not_answer_ends_with_a_clear_error():
    result = CliRunner().invoke(rank, ["--user", "3", "--store", "redis://:secret@127.0.0.1:1/0"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: redis://127.0.0.1:1/0?namespace=foresight: no answer from the Redis server")
    assert "secret" not in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--user", "x"],
        ["--user", "1", "--limit", "0"],
        ["--user", "1", "--version", "2", "--label", "canary"],
        ["--user", "1", "--root-certificates", "no-such-file.pem"],
    ],
)
def test_rank_refuses_wrong_usage(arguments):
    assert CliRunner().invoke(rank, arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments", [["--port", "70000"], ["--model-name", "=x"], ["--model-name", "a", "--model-name", "a"]]
)
def test_serve_refuses_wrong_usage(arguments):
    assert CliRunner().invoke(serve, arguments).exit_code == 2


def test_serve_names_a_wrong_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test's process keeps its own handlers
    config = tmp_path / "models.config"
    config.write_text("model_config_list { config { nome: 'x' } }")
    result = CliRunner().invoke(serve, ["--model-config-file", str(config)])
    assert result.exit_code == 1
    assert "is not a ModelServerConfig" in result.output


def test_a_ranking_without_rooms_says_so():
    console = rich.console.Console(width=80)
    with console.capture() as capture:
        console.print(ranking_table(Ranking(3, None, ())))
    assert "No room is live to be ranked for user 3" in capture.get()
