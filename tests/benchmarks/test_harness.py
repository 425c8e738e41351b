import json

import pytest
from click.testing import CliRunner

import benchmarks.simulator
from benchmarks.cli import bench, names
from benchmarks.harness import figure, goal, report


def test_goal_judges_the_median():
    assert goal("speed", [1.0, 9.0, 5.0], ">=", 5.0) == {
        "name": "speed", "value": 5.0, "goal": 5.0, "op": ">=", "met": True, "runs": 3, "low": 1.0, "high": 9.0,
    }  # fmt: skip
    assert not goal("delay", [1.0, 9.0, 5.0], "<=", 4.9)["met"]


def test_goal_rejects_what_it_cannot_judge():
    with pytest.raises(ValueError, match="at least one sample"):
        goal("speed", [], ">=", 1.0)
    with pytest.raises(ValueError, match="op must be one of"):
        goal("speed", [1.0], ">", 1.0)


def test_report_names_machine_and_versions():
    result = report("x", [goal("speed", [1.0], ">=", 1.0)], "numpy", "no-such-distribution")
    assert set(result) == {"bench", "goals", "figures", "machine", "versions"}
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["numpy"]
    assert result["versions"]["no-such-distribution"] is None


def test_bench_prints_what_run_returns(monkeypatch):
    expected = report("simulator", [goal("events per CPU-second", [3e5, 4e5], ">=", 200_000)], "numpy")
    monkeypatch.setattr(benchmarks.simulator, "run", lambda: expected)
    assert json.loads(CliRunner().invoke(bench, ["simulator", "--json"]).stdout) == expected
    text = CliRunner().invoke(bench, ["simulator"]).stdout
    assert text.startswith("met")
    assert "350,000" in text


def test_a_figure_without_a_goal_is_neither_met_nor_missed(monkeypatch):
    expected = report("simulator", [], figures=[figure("delay", [1.0, 9.0, 5.0])])
    monkeypatch.setattr(benchmarks.simulator, "run", lambda: expected)
    text = CliRunner().invoke(bench, ["simulator"]).stdout
    assert text.split("\n")[0] == "       delay: 5 (median of 3, 1 to 9)"


def test_simulator_is_a_benchmark_and_the_harness_is_not():
    assert "simulator" in names()
    assert not {"harness", "cli"} & set(names())
    assert CliRunner().invoke(bench, ["harness"]).exit_code == 2
