"""Files that survive a crash: written to the disk before anyone relies on them."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

_WRITE_BACK_S = 0.02


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
            copy_file_durably(entry, target / entry.name)
    sync_folder(target)


def copy_file_durably(source: Path, target: Path) -> None:
    """Copies the content of one file, and waits until the disk has it."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 2**20)
        writer.flush()
        os.fsync(writer.fileno())


def link_or_copy_durably(source: Path, target: Path) -> None:
    """Gives a file a second name, at no cost; where the file system can't, its content is copied.

    The name is on the disk once its folder was synchronised.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another device, no links there, too many of them; a full disk fails the copy as well
        copy_file_durably(source, target)


def sync_file(path: Path) -> None:
    """Waits until the disk has what another library wrote to a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing_back(folder: Path) -> Iterator[None]:
    """While another library writes files into `folder`, has the disk take what is there already.

    So that synchronising them at the end, which is still needed, waits for the rest only.

    Raises:
        OSError: The disk couldn't take it. The system says so once, and wouldn't at the end.
    """
    done, errors = threading.Event(), []

    def follow() -> None:
        while not done.wait(_WRITE_BACK_S):
            for path in folder.iterdir():
                try:
                    descriptor = os.open(path, os.O_RDONLY)
                except FileNotFoundError:  # renamed meanwhile
                    continue
                try:
                    getattr(os, "fdatasync", os.fsync)(descriptor)  # not everywhere
                except OSError as error:
                    errors.append(error)
                finally:
                    os.close(descriptor)

    thread = threading.Thread(target=follow, name="writing-back")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if errors:
        raise errors[0]
