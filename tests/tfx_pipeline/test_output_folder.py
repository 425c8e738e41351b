"""Which folders `foresight demo` and `foresight run` take as their own."""

import json

import filelock
import pytest
from click.testing import CliRunner

from tfx_pipeline.output_folder import claim, own_folder
from tfx_pipeline.road_commands import COMMANDS

DEMO, RUN = COMMANDS
SUMMARY = {"spans": [], "stages": [], "wall_seconds": 1.0, "peak_rss_mb": 1, "rank": []}


def _unmarked_demo(folder):
    (folder / "models").mkdir()
    (folder / ".lock").touch()
    (folder / "summary.json").write_text(json.dumps(SUMMARY))


def test_a_new_folder_is_claimed_with_its_parents_and_again_when_a_killed_run_has_filled_it(tmp_path):
    folder = tmp_path / "build" / "demo"
    with own_folder(folder, "demo"):
        (folder / "data").mkdir()
    with own_folder(folder, "demo"):
        assert (folder / "data").exists()
    assert (folder / ".foresight-demo").exists()


def test_an_empty_folder_is_claimed_even_if_it_was_locked(tmp_path):
    (tmp_path / ".lock").touch()
    claim(tmp_path, "run")
    assert (tmp_path / ".foresight-run").exists()


@pytest.mark.parametrize("command", ["demo", "run"])
@pytest.mark.parametrize("name", ["data", "models", "examples", "notes.txt", "summary.json"])
def test_a_folder_with_anything_else_is_refused_and_left_as_it_is(tmp_path, command, name):
    (tmp_path / name).write_text("{}")
    (tmp_path / ".lock").touch()
    with pytest.raises(ValueError, match=rf"not known as a folder of `foresight {command}`.*holds {name}\. .*--out"):
        claim(tmp_path, command)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", name])


def test_a_folder_of_the_other_command_is_refused(tmp_path):
    claim(tmp_path, "run")
    with pytest.raises(ValueError, match=r"holds \.foresight-run"):
        claim(tmp_path, "demo")


def test_an_error_names_the_first_things_that_are_in_the_way(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(ValueError, match=r"holds 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more\."):
        claim(tmp_path, "run")


def test_a_demo_of_before_there_were_marks_is_known_by_its_summary(tmp_path):
    _unmarked_demo(tmp_path)
    with pytest.raises(ValueError, match="not known"):
        claim(tmp_path, "run")
    claim(tmp_path, "demo")
    assert (tmp_path / ".foresight-demo").exists() and (tmp_path / "models").exists()


def test_a_summary_alone_is_not_a_demo(tmp_path):
    _unmarked_demo(tmp_path)
    (tmp_path / ".lock").unlink()
    with pytest.raises(ValueError, match="not known"):
        claim(tmp_path, "demo")


def test_a_folder_in_use_is_refused(tmp_path):
    running = pytest.raises(RuntimeError, match="another `foresight demo` is running in")
    with filelock.FileLock(tmp_path / ".lock"), running, own_folder(tmp_path, "demo"):
        pass


@pytest.mark.parametrize(("command", "arguments"), [(DEMO, []), (RUN, ["--source", "chat_log", "--input", "typo"])])
def test_a_refused_command_touches_nothing_not_even_a_log(tmp_path, command, arguments):
    (tmp_path / "log.txt").write_text("mine")
    (tmp_path / "models").mkdir()
    result = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path} isn't empty and not known as a folder of `foresight")
    assert "what libraries wrote" not in result.output
    assert (tmp_path / "log.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "models"]
