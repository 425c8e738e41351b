"""Training of a codebook: K-Means over the embeddings of segments."""

import dataclasses
import logging
from collections.abc import Iterable

import faiss
import numpy as np

from beam_transforms.codebook import Codebook
from beam_transforms.columnar import hash_rows

_LOGGER = logging.getLogger(__name__)
_ASSIGNED_AT_ONCE = 65_536
_MOST_LENGTH = 1e15  # faiss squares in float32 and ends the process where that gives infinity


@dataclasses.dataclass(frozen=True)
class CodebookTrainer:
    """K-Means (faiss, float32, one thread): the same vectors give the same codes, in whatever order they come.

    More vectors than `most_vectors` are sampled while they are read: those are kept whose hash of (seed, content) is
    smallest. Vectors that are equal are in the sample together or not at all. At most twice `most_vectors` vectors are
    in memory.

    Attributes:
        codes: K, the number of codes.
        iterations: Rounds of assignment and averaging. Published quality is reached in 10 to 20.
        seed: Seed of the sample and of the first codes.
        most_vectors: Most vectors to train on; None takes all of them.

    Raises:
        ValueError: If a number isn't positive, or `most_vectors` is less than `codes`.
    """

    codes: int = 20_000
    iterations: int = 20
    seed: int = 0
    most_vectors: int | None = None

    def __post_init__(self) -> None:
        if self.codes <= 0 or self.iterations <= 0 or self.seed < 0:
            raise ValueError(
                f"codes and iterations must be positive and seed >= 0, got {self.codes}, {self.iterations}, {self.seed}"
            )
        if self.most_vectors is not None and self.most_vectors < self.codes:
            raise ValueError(f"most_vectors must be at least codes = {self.codes}, got {self.most_vectors}")

    def train(self, batches: Iterable[np.ndarray]) -> Codebook:
        """Trains on batches of vectors, each of shape (rows, W).

        Vectors that aren't `trainable` are left out, and how many they are is logged.

        Returns:
            The codebook; its MSE, codes used and perplexity are those of the vectors that it was trained on.

        Raises:
            ValueError: If the batches are of different widths or of none, or hold fewer such vectors than `codes`.
        """
        vectors = self._read(batches)
        if len(vectors) < self.codes:
            raise ValueError(
                f"K-Means of {self.codes} codes needs at least as many vectors, got {len(vectors)}: "
                "ask for fewer codes (some 40 vectors a code are a good number) or give it more segments"
            )
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # with more, sums depend on who comes first
        try:
            kmeans = faiss.Kmeans(
                vectors.shape[1],
                self.codes,
                niter=self.iterations,
                seed=self.seed,
                min_points_per_centroid=1,
                max_points_per_centroid=len(vectors),  # all of them: faiss would sample by itself
            )
            kmeans.train(vectors)
        finally:
            faiss.omp_set_num_threads(threads)
        return _with_figures(np.asarray(kmeans.centroids), vectors)

    def _read(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """All vectors or the sample of them, in the order of their hashes, (rows, W)."""
        kept: list[np.ndarray] = []
        hashes: list[np.ndarray] = []
        held = skipped = 0
        for batch in batches:
            vectors = np.asarray(batch, dtype=np.float32)
            if vectors.ndim != 2 or not vectors.shape[1] or (kept and vectors.shape[1] != kept[0].shape[1]):
                wanted = kept[0].shape[1] if kept else "W >= 1"
                raise ValueError(f"expected batches of vectors of shape (rows, {wanted}), got {vectors.shape}")
            good = trainable(vectors)
            skipped += len(vectors) - int(good.sum())
            kept.append(vectors[good])
            hashes.append(_hashes(kept[-1], self.seed))
            held += len(kept[-1])
            if self.most_vectors is not None and held > 2 * self.most_vectors:
                kept, hashes = self._smallest(kept, hashes)
                held = len(kept[0])
        if skipped:
            _LOGGER.warning("left out %d vectors with NaN, infinity or a length beyond %g", skipped, _MOST_LENGTH)
        return self._smallest(kept, hashes)[0][0] if kept else np.zeros((0, 1), dtype=np.float32)

    def _smallest(self, kept: list[np.ndarray], hashes: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        hashed = np.concatenate(hashes)
        order = np.argsort(hashed, kind="stable")[: self.most_vectors]
        return [np.concatenate(kept)[order]], [hashed[order]]


def trainable(vectors: np.ndarray) -> np.ndarray:
    """Which vectors K-Means can be trained on, bool (rows,): those of finite numbers and a length of at most 1e15."""
    return np.einsum("rw,rw->r", vectors, vectors, dtype=np.float64) <= _MOST_LENGTH**2  # NaN is not


def _hashes(vectors: np.ndarray, seed: int) -> np.ndarray:
    """A 64-bit hash of each vector's content, (rows,)."""
    bits = (vectors + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 = 0.0
    return hash_rows(list(bits.T), seed) if len(vectors) else np.zeros(0, dtype=np.uint64)


def _with_figures(codes: np.ndarray, vectors: np.ndarray) -> Codebook:
    codebook = Codebook(codes)
    counts = np.zeros(len(codes), dtype=np.int64)
    squares = 0.0
    for begin in range(0, len(vectors), _ASSIGNED_AT_ONCE):
        part = vectors[begin : begin + _ASSIGNED_AT_ONCE]
        assigned = codebook.assign(part)
        counts += np.bincount(assigned, minlength=len(codes))
        squares += float(np.square(part - codebook.codes[assigned], dtype=np.float64).sum())
    return Codebook(codes, len(vectors), squares / vectors.size, counts)
