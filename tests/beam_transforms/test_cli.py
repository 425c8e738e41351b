import json
import re
from pathlib import Path

from click.testing import CliRunner

from beam_transforms.cli import COMMANDS, simulate


def test_simulate_reports_what_it_wrote(tmp_path):
    result = CliRunner().invoke(simulate, ["--preset", "tiny", "--seed", "2", "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["preset"], report["seed"]) == ("tiny", 2)
    assert 5_000 < report["events"] < 20_000
    assert set(report["rates"]) == {"ctr", "evtr", "lvtr", "ltr", "cmtr", "wtr", "shtr", "gtr", "cvr"}
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_simulate_prints_a_table(tmp_path):
    result = CliRunner().invoke(simulate, ["--preset", "tiny", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "live_interaction.csv" in result.stdout
    assert "gtr " in result.stdout


def test_simulate_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(simulate, ["--preset", "tiny", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "not an empty folder" in result.output
    assert "Traceback" not in result.output


def test_unknown_preset_is_a_usage_error(tmp_path):
    assert CliRunner().invoke(simulate, ["--preset", "huge", "--out", str(tmp_path / "x")]).exit_code == 2
    assert simulate in COMMANDS


def test_the_help_and_the_page_tell_the_same_sizes():
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    table = [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| `.*$", page, re.MULTILINE)[:3]]
    events = {cells[1]: cells[6] for cells in table}
    words = next(option.help for option in simulate.params if option.name == "preset")
    told = dict(re.findall(r"(\w+): [^;]*?([\d.]+ million)", words))
    assert told == {"demo": events["`demo`"], "large": events["`large`"]}
