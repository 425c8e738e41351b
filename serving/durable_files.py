"""Files that survive a crash: written to the disk before anyone relies on them."""

import os
import shutil
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Replaces a file: whoever reads it, or a crash, finds the old content or the new one, whole."""
    beside = path.with_name(path.name + ".new")
    try:
        write_durably(beside, content)
        beside.replace(path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def copy_durably(source: Path, target: Path) -> None:
    """Copies what is in the folder `source` into the new folder `target`, and waits until the disk has it."""
    target.mkdir()
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            copy_durably(entry, target / entry.name)
        else:
            with entry.open("rb") as reader, (target / entry.name).open("wb") as writer:
                shutil.copyfileobj(reader, writer, 2**20)
                writer.flush()
                os.fsync(writer.fileno())
    sync_folder(target)


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
