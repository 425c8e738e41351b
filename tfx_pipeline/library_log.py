"""Keeps what libraries write to standard error out of the account of a long run."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def library_log(path: Path) -> Iterator[TextIO]:
    """Sends standard error to a file, that of native code and child processes too, for the length of a `with` block.

    TensorFlow's native code writes there whatever the log level. An exception that leaves the block says where to look.

    Args:
        path: The file, e.g. log.txt; what the run before wrote is kept beside it, as log.txt.1.

    Yields:
        A stream to the standard error of before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_name(f"{path.name}.1"))
    sys.stderr.flush()
    before = os.dup(2)
    with path.open("w") as log, os.fdopen(os.dup(before), "w") as terminal:
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
