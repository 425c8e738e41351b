"""A codebook from the segments of a source that ended before a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from beam_transforms.codebook import Codebook
from beam_transforms.codebook_trainer import CodebookTrainer, trainable
from beam_transforms.columnar import to_columns
from beam_transforms.sources.source import DeadLetter, Source

_SEGMENTS_A_CODE = 40  # K-Means learns little of codes with fewer
_MOST_VECTORS = 1_000_000


def train_codebook(source: Source, until_ms: int, most_codes: int, folder: Path, seed: int = 0) -> Codebook | None:
    """Trains and saves the codebook that semantic ids of this and later times are made with.

    It has a code for each 40 segments, and at most `most_codes`. More than a million segments are sampled. Segments
    whose embedding isn't `codebook_trainer.trainable` don't count; the trainer logs how many it left out.

    Args:
        source: Where the segments come from.
        until_ms: Only segments that ended by then are seen: later ones are what is to be forecast.
        most_codes: The largest number of codes.
        folder: Where the codebook is saved, see `Codebook.save`.
        seed: Of K-Means and of the sample.

    Returns:
        The codebook; None if the source tells no segments before the time that it could be trained on.
    """
    segments = sum(int(trainable(vectors).sum()) for vectors in _embeddings(source, until_ms))
    if not segments:
        return None
    codes = min(most_codes, max(1, segments // _SEGMENTS_A_CODE))
    trainer = CodebookTrainer(codes, seed=seed, most_vectors=max(_MOST_VECTORS, codes))
    codebook = trainer.train(_embeddings(source, until_ms))
    codebook.save(folder)
    return codebook


def codebook_figures(codebook: Codebook) -> dict[str, str | int | float]:
    """What people want to know of a codebook, in JSON's types."""
    return {
        "version": codebook.version,
        "codes": codebook.size,
        "codes_used": codebook.codes_used,
        "perplexity": codebook.perplexity,
        "mse": codebook.mse,
        "trained_on": codebook.trained_on,
    }


def _embeddings(source: Source, until_ms: int) -> Iterator[np.ndarray]:
    for partition in source.segment_partitions():
        for batch in source.read_segments(partition):
            if not isinstance(batch, DeadLetter):
                segments = to_columns([batch])
                yield segments["embedding"][segments["timestamp_ms"] < until_ms]
