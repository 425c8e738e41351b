import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner

from keras_models.cli import evaluate
from keras_models.metrics import grouped_auc, paired_bootstrap

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, which reads logs, isn't installed here; run `make test`")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def log():
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 300)
    return {
        "user": generator.integers(0, 20, 300),
        "label": label,
        "score": label + generator.normal(size=300),
        "old": generator.normal(size=300),
    }


def _write(log, path):
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table(log), path)
        return path
    lines = [",".join(log), *(",".join(str(value) for value in row) for row in zip(*log.values(), strict=True))]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _run(*arguments):
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_reports_what_the_functions_give(log, tmp_path, name):
    result = _run(_write(log, tmp_path / name), "--against", "old", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    figures = grouped_auc(log["user"], log["label"], log["score"])
    assert report["rows"] == 300
    assert report["users"] == figures.users
    assert report["users_left_out"] == figures.users_left_out
    for key in ("auc", "gauc", "uauc"):
        assert report[key] == pytest.approx(getattr(figures, key), abs=1e-12)
    difference = paired_bootstrap(log["user"], log["label"], log["score"], log["old"])
    assert report["against"] == "old"
    # Users are told apart by name, so their order, and with it the draws, differs from that of the numbers.
    assert report["difference"]["gauc"]["value"] == pytest.approx(difference["gauc"].value, abs=1e-12)
    assert report["difference"]["gauc"]["low"] == pytest.approx(difference["gauc"].low, abs=0.02)


def test_keys_are_the_contracts(log, tmp_path):
    report = json.loads(_run(_write(log, tmp_path / "log.csv"), "--json").output)
    assert set(report) == {"rows", "users", "users_left_out", "auc", "gauc", "uauc"}


def test_undefined_figures_are_null(tmp_path):
    path = _write({"user": [1, 2], "label": [0, 1], "score": [0.1, 0.2]}, tmp_path / "log.csv")
    assert json.loads(_run(path, "--json").output) == {
        "rows": 2,
        "users": 2,
        "users_left_out": 2,
        "auc": 1.0,
        "gauc": None,
        "uauc": None,
    }
    assert "GAUC undefined" in _run(path).output


def test_text_names_figures_and_intervals(log, tmp_path):
    output = _run(_write(log, tmp_path / "log.csv"), "--against", "old").output
    assert "300 rows of 20 users" in output
    assert "against old (95 % interval +" in output


def test_users_may_turn_into_names_late_in_the_file(tmp_path):
    users = [*range(200_000), "zoe", "zoe"]
    path = _write({"user": users, "label": [0, 1] * 100_001, "score": [0.5] * 200_002}, tmp_path / "log.csv")
    assert json.loads(_run(path, "--json").output)["users"] == 200_001


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1], "label": [1]}, "no column score; expected user, label, score, found user, label"),
        ({"user": [1, 2], "label": [0, 1], "score": ["nan", 0.5]}, "row 0"),
        ({"user": [1, 2], "label": [0, 1], "score": [0.5, ""]}, "column score must be complete, row 1 has no value"),
        ({"user": [1, 2], "label": [0, 3], "score": [0.5, 0.5]}, "labels must be 0 or 1, got 3 in row 1"),
        ({"user": [1, 2], "label": [0, 1], "score": ["a", "b"]}, "column score must hold numbers"),
        ({"user": [], "label": [], "score": []}, "holds no rows"),
    ],
)
def test_says_what_is_wrong_with_a_log(columns, message, tmp_path):
    result = _run(_write(columns, tmp_path / "log.csv"))
    assert result.exit_code == 1
    assert message in result.output
    assert str(tmp_path / "log.csv") in result.output


def test_nan_scores_in_parquet_are_refused(log, tmp_path):
    log["score"][7] = np.nan
    result = _run(_write(log, tmp_path / "log.parquet"))
    assert result.exit_code == 1
    assert "scores must be numbers, got NaN in row 7" in result.output


def test_says_what_is_wrong_with_a_file(log, tmp_path):
    missing = _run(tmp_path / "none.csv")
    assert missing.exit_code == 1
    assert "there is no such file" in missing.output

    (tmp_path / "empty.csv").touch()
    assert "can't be read as CSV or Parquet" in _run(tmp_path / "empty.csv").output

    for name in ("log.parquet", "log.csv.gz"):
        whole = _write(log, tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        result = _run(tmp_path / name)
        assert result.exit_code == 1
        assert "can't be read as CSV or Parquet, is it whole?" in result.output

    result = _run(_write(log, tmp_path / "log.csv"), "--against", "new")
    assert result.exit_code == 1
    assert "no column new; expected user, label, score, new, found user, label, score, old" in result.output
