import numpy as np

from beam_transforms.columnar import empty
from beam_transforms.content import segment_batch
from beam_transforms.schema import EVENT_COLUMNS, LIVE_SCHEMA
from beam_transforms.sources.source import Partition
from beam_transforms.train_codebook import train_codebook
from tests.beam_transforms.event_logs import MemorySource


class Segments(MemorySource):
    """One segment a second of one room, with these embeddings."""

    def __init__(self, embeddings):
        super().__init__(empty(EVENT_COLUMNS), LIVE_SCHEMA)
        self._embeddings = embeddings

    def segment_partitions(self):
        return [Partition("all", "segments")]

    def read_segments(self, partition):
        yield segment_batch(7, 1, np.arange(len(self._embeddings)) * 1000, self._embeddings)


def test_embeddings_that_cannot_be_trained_on_do_not_count(tmp_path, caplog):
    embeddings = np.random.default_rng(0).standard_normal((83, 2)).astype(np.float32)
    embeddings[[3, 50]] = [[np.nan, 0], [2e15, 0]]
    codebook = train_codebook(Segments(embeddings), 81_000, 9, tmp_path)
    assert (codebook.size, codebook.trained_on) == (1, 79)  # 40 segments a code, of those before the time
    assert "left out 2 vectors" in caplog.text
    assert train_codebook(Segments(np.full((50, 2), 2e15)), 50_000, 9, tmp_path) is None
