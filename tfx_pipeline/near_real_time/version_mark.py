"""Tells a published version from another one of its number."""

import zlib
from pathlib import Path

from serving.version_manifest import MANIFEST_FILE


def version_mark(folder: Path) -> int | None:
    """A checksum over a version's manifest, which holds when it was published; None if there is none.

    Numbers begin anew where somebody has removed all versions: a number alone says nothing.

    Raises:
        OSError: If the manifest can't be read.
    """
    try:
        return zlib.crc32((Path(folder) / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
