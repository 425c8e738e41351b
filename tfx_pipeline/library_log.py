"""Keeps what libraries write to standard error out of the account of a long run."""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def library_log(path: Path) -> Iterator[TextIO]:
    """Sends standard error to a file, that of native code and child processes too, for the length of a `with` block.

    TensorFlow's native code writes there whatever the log level. An exception that leaves the block says where to look.
    The file is locked, so that a second command on the same folder ends before it touches the log of the first.

    Args:
        path: The file, e.g. log.txt; what the run before wrote is kept beside it, as log.txt.1.

    Yields:
        A stream to the standard error of before.

    Raises:
        RuntimeError: If another process writes to the file in such a block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Child processes inherit standard error, but not this: one that outlives a killed run doesn't hold the lock.
    with path.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"another command is running in {path.parent} and writes {path}; stop it or wait for its end, or take "
                f"another folder"
            ) from None
        if path.stat().st_size:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            held.truncate(0)
        with _redirected(path) as terminal:
            yield terminal


@contextlib.contextmanager
def _redirected(path: Path) -> Iterator[TextIO]:
    sys.stderr.flush()
    before = os.dup(2)
    with path.open("a") as log, os.fdopen(os.dup(before), "w") as terminal:
        os.dup2(log.fileno(), 2)
        try:
            yield terminal
        except Exception as error:
            error.add_note(f"what libraries wrote until then stands in {path}")
            raise
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
