"""A folder holds what it held or what took its place, whole, wherever the run that writes it ends."""

from pathlib import Path

import pytest

from beam_transforms.replaced_folder import ReplacedFolder

PATTERNS = ("Span-*", "schema.json")
OLD = {"Span-1/a": "old", "Span-2/a": "old", "schema.json": "old"}
NEW = {"Span-2/b": "new", "Span-3/b": "new", "schema.json": "new"}
OTHER = {"mine.txt": "mine"}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_is_new_takes_the_place_of_what_was_there(tmp_path):
    write(tmp_path, OLD | OTHER)
    with ReplacedFolder(tmp_path, PATTERNS) as target:
        write(target.new, NEW)
        assert {name: text for name, text in content(tmp_path).items() if name in OLD} == OLD
        target.replace()
    assert content(tmp_path) == NEW | OTHER
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_a_run_that_fails_leaves_what_was_there(tmp_path, error):
    write(tmp_path, OLD | OTHER)
    with pytest.raises(type(error)), ReplacedFolder(tmp_path, PATTERNS) as target:
        write(target.new, NEW)
        raise error
    assert content(tmp_path) == OLD | OTHER


def test_what_a_killed_run_left_is_removed(tmp_path):
    write(tmp_path, OLD)
    write(tmp_path / ".new", {"Span-9/c": "killed"})
    with ReplacedFolder(tmp_path, PATTERNS) as target:
        write(target.new, NEW)
        target.replace()
    assert content(tmp_path) == NEW


@pytest.mark.parametrize("done", range(8))
def test_a_run_that_is_killed_while_it_renames_leaves_one_or_the_other(tmp_path, monkeypatch, done):
    write(tmp_path, OLD | OTHER)
    rename, left = Path.rename, [done]

    def killed(path, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return rename(path, target)

    with pytest.raises(KeyboardInterrupt), ReplacedFolder(tmp_path, PATTERNS) as target:
        write(target.new, NEW)
        monkeypatch.setattr(Path, "rename", killed)
        target.replace()
    monkeypatch.undo()
    with ReplacedFolder(tmp_path, PATTERNS):
        assert content(tmp_path) == (OLD if done <= 3 else NEW) | OTHER  # three of old, then the whole of the new


def test_two_runs_do_not_write_the_same_folder(tmp_path):
    with ReplacedFolder(tmp_path, PATTERNS) as target:
        write(target.new, NEW)
        with pytest.raises(OSError, match=r"another run is writing into .*choose another folder"):
            ReplacedFolder(tmp_path, PATTERNS).__enter__()
        target.replace()
    assert content(tmp_path) == NEW
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        ReplacedFolder(tmp_path / "schema.json", PATTERNS).__enter__()
