"""The content of a plain or gzip'ed file, as far as it can be read."""

import gzip
import zlib
from pathlib import Path
from types import TracebackType


class ByteStream:
    """Reads a file, decompressed if its name ends in `.gz`. A context manager.

    Attributes:
        position: Bytes of content that were read so far.
        damage: Why the content ended before its end, or None. A truncated or damaged gzip file is read up to there.
    """

    def __init__(self, path: Path) -> None:
        self.position = 0
        self.damage: str | None = None
        self._file = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115

    def __enter__(self) -> "ByteStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of what can be read."""
        parts: list[bytes] = []
        missing = size
        while missing and self.damage is None:
            try:
                part = self._file.read1(missing)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self.damage = f"the gzip stream is truncated or damaged ({error})"
                break
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        content = b"".join(parts)
        self.position += len(content)
        return content
