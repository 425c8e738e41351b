"""Segments of a stream: what doesn't fit the codebook is a dead letter, and never stops the stream."""

import dataclasses

import numpy as np
import pyarrow as pa

from beam_transforms.codebook import Codebook
from beam_transforms.columnar import Columns, take, to_columns
from beam_transforms.quantize_segments import SEGMENT_IDS
from beam_transforms.schema import RankingSchema
from beam_transforms.sources.source import DeadLetter


def require_same_codes(schema: RankingSchema, codebook: Codebook | None) -> None:
    """Raises a ValueError that names both if the schema's semantic ids aren't those of the codebook."""
    if not schema.semantic_id_length:
        return
    given = "no codebook" if codebook is None else f"{codebook.size} codes of codebook {codebook.version}"
    if codebook is None or (schema.codes, schema.codebook) != (codebook.size, codebook.version):
        raise ValueError(
            f"schema {schema.name!r} has semantic ids of {schema.codes} codes of codebook {schema.codebook!r}, got "
            f"{given}; give the codebook that the schema was made with"
        )


def wrong_width(batch: pa.RecordBatch, codebook: Codebook) -> list[dict[str, object]]:
    """A dead letter for each segment of a batch whose embeddings are of another width than the codes."""
    width = batch.schema.field("embedding").type.list_size
    if width == codebook.width:
        return []
    reason = f"embedding should have {codebook.width} floats like the codes of codebook {codebook.version}, got {width}"
    return [_letter(batch, row, reason) for row in range(batch.num_rows)]


def quantize(batch: pa.RecordBatch, codebook: Codebook) -> tuple[Columns, list[dict[str, object]]]:
    """Semantic ids of segments, and dead letters for those that have none: what `QuantizeSegments` does, in place."""
    letters = wrong_width(batch, codebook)
    rows = to_columns([batch])
    ids = {name: rows[name] for name in SEGMENT_IDS}
    if letters:
        none = np.zeros(0, dtype=np.int64)
        return {**take(ids, none), "semantic_id": none}, letters
    semantic_id = codebook.assign(rows["embedding"])
    reason = "expected an embedding of finite numbers, got one that is missing or holds NaN or infinity"
    letters = [_letter(batch, int(row), reason) for row in np.flatnonzero(semantic_id < 0)]
    return take({**ids, "semantic_id": semantic_id}, np.flatnonzero(semantic_id >= 0)), letters


def _letter(batch: pa.RecordBatch, row: int, reason: str) -> dict[str, object]:
    values = {name: batch.column(name)[row].as_py() for name in SEGMENT_IDS}
    return dataclasses.asdict(DeadLetter("segments", row + 1, reason, str(values)))
