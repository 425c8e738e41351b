"""Keeps what a stream couldn't use, as lines of JSON: dead letters, and rows that came too late."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_transforms.codebook import Codebook
from beam_transforms.columnar import to_columns
from beam_transforms.content import segment_batch
from beam_transforms.encode_event_lines import encode_event_lines
from beam_transforms.window_files import WriteWindowFiles, file_name, replace_file

LATE = "late"
"""The folder of late rows, beside the examples."""


class WriteStreamedLines(beam.PTransform):
    """bytes, one or more whole lines each -> `<folder>/<window>-<shard>-of-<shards>.jsonl`; gives (path, lines).

    Unbounded input. The lines of a file are sorted, and a file is written beside and renamed: after a crash the same
    files are written again.

    Args:
        folder: Where to write.
        shards: Number of files of a window that can be written in parallel.
    """

    def __init__(self, folder: Path, shards: int = 1) -> None:
        super().__init__()
        self._folder, self._shards = Path(folder), shards

    def expand(self, lines: beam.PCollection) -> beam.PCollection:
        sharded = lines | beam.Map(self._sharded).with_output_types(tuple[int, bytes])
        return sharded | WriteWindowFiles(self._write)

    def _sharded(self, lines: bytes) -> tuple[int, bytes]:
        return sum(lines) % self._shards, lines

    def _write(self, shard: int, end_ms: int, parts: list[bytes]) -> list[tuple[str, int]]:
        return write_lines(self._folder / f"{file_name(end_ms, shard, self._shards)}.jsonl", parts)


def write_lines(path: Path, parts: Iterable[bytes]) -> list[tuple[str, int]]:
    """Writes lines, sorted, as a file; gives its path and their number, nothing if there are none."""
    lines = sorted(b"".join(parts).splitlines(keepends=True))
    if not lines:
        return []
    replace_file(path, lambda temporary: temporary.write_bytes(b"".join(lines)))
    return [(str(path), len(lines))]


def dead_letter_line(letter: Mapping[str, Any]) -> bytes:
    """A dead letter as a line."""
    return json.dumps(letter, ensure_ascii=False).encode() + b"\n"


def late_lines(name: str, rows: pa.RecordBatch, codebook: Codebook | None = None) -> bytes:
    """Rows that came too late as lines of live events: what a batch run can read later.

    A semantic id becomes a segment whose embedding is the id's code, so that the same codebook gives the id again. An
    impression is told by its exposure, so it gives no line.

    Args:
        name: The table: `late_events`, `late_impressions`, `late_semantic_ids` or `late_products`.
        codebook: What made the semantic ids.

    Raises:
        ValueError: If semantic ids come without a codebook, or the table is another one.
    """
    if name == "late_impressions":
        return b""
    if name == "late_semantic_ids":
        if codebook is None:
            raise ValueError("late semantic ids are kept as segments: give the codebook that made them")
        columns = to_columns([rows])
        rooms, authors, times = (columns[column] for column in ("live_id", "author_id", "timestamp_ms"))
        return encode_event_lines(segment_batch(rooms, authors, times, codebook.codes[columns["semantic_id"]]))
    if name in ("late_events", "late_products"):
        return encode_event_lines(rows)
    raise ValueError(f"{name} isn't a table of late rows")
