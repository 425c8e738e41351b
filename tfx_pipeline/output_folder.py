"""The folder of a command that starts afresh each time: it may remove there what it made, and nothing else."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import filelock

_LOCK_FILE = ".lock"
_NAMED = 5  # things in the way that an error names
_DEMO_SUMMARY = {"spans", "stages", "peak_rss_mb", "rank"}


def claim(folder: Path, command: str) -> None:
    """Makes the folder, and marks it as one that belongs to a command; does nothing if it is marked.

    The mark is the file `.foresight-<command>`.

    Args:
        folder: What `--out` says.
        command: `demo` or `run`.

    Raises:
        ValueError: If the folder isn't marked and not empty, so that what is in it may be someone else's.
    """
    mark = folder / f".foresight-{command}"
    if mark.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in folder.iterdir() if path.name != _LOCK_FILE)
    if found and not (command == "demo" and _is_unmarked_demo(folder)):
        names = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")
        raise ValueError(
            f"{folder} isn't empty and not known as a folder of `foresight {command}` (there is no {mark.name}); it "
            f"holds {names}. What an earlier one left is removed at the start, so --out must be such a folder, or "
            f"a new or empty one"
        )
    mark.write_text(f"`foresight {command}` made this folder, and when it is run again replaces what it made here.\n")


@contextlib.contextmanager
def own_folder(folder: Path, command: str) -> Iterator[None]:
    """Claims the folder and locks it for the length of a `with` block.

    Raises:
        RuntimeError: If the command is running in the folder.
        ValueError: As `claim` does.
    """
    claim(folder, command)
    try:
        with filelock.FileLock(folder / _LOCK_FILE, timeout=0):
            yield
    except filelock.Timeout as error:
        raise RuntimeError(
            f"another `foresight {command}` is running in {folder}; wait for its end or choose another --out"
        ) from error


def _is_unmarked_demo(folder: Path) -> bool:
    """Whether a demo that set no mark yet has made the folder: it left its summary and its lock."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.keys() >= _DEMO_SUMMARY and (folder / _LOCK_FILE).is_file()
