"""Exact nearest codes of many vectors at the speed of one matrix product."""

import itertools

import numpy as np

# Codes and vectors in one matrix product: its scores (1.5 MiB) stay in a core's cache. Chosen by measuring.
_BLOCK, _ROWS = 400, 960
_GROUPS = 4  # of a block; of each only the smallest score is kept
_VECTORS = 8 * _ROWS  # looked at together: bounds the memory
_PAIRS = 2**14  # vectors and codes whose distance is taken at once: bounds it, too
_NEVER = 1e30  # score of the codes that fill up the last block
_LARGEST = 1e15  # of a vector in units of the codes' spread; beyond it, float32 can't tell codes apart


class NearestCodes:
    """Finds the nearest code in the Euclidean distance; of equally near ones the one with the lowest number.

    With m the mean of the codes, half of |e - c|^2 less what doesn't depend on c is

        score = |c - m|^2 / 2 - (e - m) . (c - m)

    A float32 matrix product gives all scores with an error whose bound is known. Codes within twice that bound of the
    smallest score are candidates, and where there are two or more, distances in float64, from the differences, decide.
    So the answer doesn't depend on how the product rounds: not on the batch a vector is in, nor on the machine.

    The first product keeps each group's smallest score alone. Another one, of each group and the vectors that have a
    candidate in it, tells which codes these are.

    Args:
        codes: float32 of shape (K, W), finite.
    """

    def __init__(self, codes: np.ndarray) -> None:
        count, width = codes.shape
        blocks = -(-count // _BLOCK)
        size = -(-count // (blocks * _GROUPS))  # of a group
        self._codes = codes.astype(np.float64)
        self._mean = self._codes.mean(axis=0)
        centred = self._codes - self._mean
        spread = float(np.abs(centred).max())
        self._scale = 2.0 ** -np.ceil(np.log2(spread)) if spread else 1.0  # a power of two: scaling by it is exact
        centred *= self._scale
        padded = np.zeros((blocks * _GROUPS * size, width + 1), dtype=np.float32)
        padded[:count, :width] = -centred
        padded[:count, width] = np.square(centred).sum(axis=1) / 2
        padded[count:, width] = _NEVER
        self._groups = padded.reshape(blocks * _GROUPS, size, width + 1)
        self._longest = float(np.sqrt(np.square(centred).sum(axis=1).max()))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(B, W) float32, finite -> (B,) int64."""
        found = np.empty(len(vectors), dtype=np.int64)
        for begin in range(0, len(vectors), _VECTORS):
            found[begin : begin + _VECTORS] = self._nearest(vectors[begin : begin + _VECTORS])
        return found

    def _nearest(self, vectors: np.ndarray) -> np.ndarray:
        count, width = vectors.shape
        size = self._groups.shape[1]
        extended = np.ones((count, width + 1), dtype=np.float32)
        with np.errstate(over="ignore"):
            np.multiply(vectors - self._mean, self._scale, out=extended[:, :width], casting="same_kind")
            length = np.sqrt(np.einsum("bw,bw->b", extended, extended)).astype(np.float64)
        far = ~(length <= _LARGEST)
        extended[far, :width] = length[far] = 0
        error = 1.01 * (width + 8) * 2.0**-24 * self._longest * (length + self._longest) + 1e-30

        smallest = self._smallest(extended)
        # Rounded up: what is near in exact arithmetic stays below.
        limit = np.nextafter((smallest.min(axis=0) + 2 * error).astype(np.float32), np.float32(np.inf))
        limit[far] = _NEVER / 2  # every code, and none of those that fill up
        in_group, rows = np.nonzero(smallest <= limit)

        candidates = []
        least = np.full(count, np.inf)
        found = np.full(count, len(self._codes), dtype=np.int64)
        crowded = len(rows) > 4 * count + _PAIRS // size
        begins = np.flatnonzero(np.append(True, in_group[1:] != in_group[:-1]))
        for begin, end in itertools.pairwise([*begins.tolist(), len(rows)]):
            group, row = in_group[begin], rows[begin:end]
            pair, place = np.nonzero(extended[row] @ self._groups[group].T <= limit[row, None])
            row, code = row[pair], group * size + place
            if crowded:
                self._decide(vectors, row, code, least, found)
            else:
                candidates.append((row, code))
        if candidates:
            row, code = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
            found[row] = code  # right where there is one candidate
            several = np.bincount(row, minlength=count)[row] > 1
            found[row[several]] = len(self._codes)
            self._decide(vectors, row[several], code[several], least, found)
        return found

    def _smallest(self, extended: np.ndarray) -> np.ndarray:
        """The smallest score in each group of codes: (groups, B) float32."""
        groups, size, width = self._groups.shape
        smallest = np.empty((groups, len(extended)), dtype=np.float32)
        memory = np.empty(_GROUPS * size * min(len(extended), _ROWS), dtype=np.float32)
        for begin in range(0, len(extended), _ROWS):
            vectors = np.ascontiguousarray(extended[begin : begin + _ROWS].T)
            scores = memory[: _GROUPS * size * vectors.shape[1]].reshape(_GROUPS * size, -1)
            for first in range(0, groups, _GROUPS):
                np.matmul(self._groups[first : first + _GROUPS].reshape(-1, width), vectors, out=scores)
                least = smallest[first : first + _GROUPS, begin : begin + _ROWS]
                np.minimum.reduce(scores.reshape(_GROUPS, size, -1), axis=1, out=least)
        return smallest

    def _decide(
        self, vectors: np.ndarray, row: np.ndarray, code: np.ndarray, least: np.ndarray, found: np.ndarray
    ) -> None:
        """Takes candidates in: `least` and `found` are each vector's smallest distance and its code so far."""
        for begin in range(0, len(row), _PAIRS):
            rows, codes = row[begin : begin + _PAIRS], code[begin : begin + _PAIRS]
            distance = np.square(vectors[rows].astype(np.float64) - self._codes[codes]).sum(axis=1)
            order = np.lexsort([codes, distance, rows])
            rows, codes, distance = rows[order], codes[order], distance[order]
            first = np.append(True, rows[1:] != rows[:-1])
            rows, codes, distance = rows[first], codes[first], distance[first]
            better = (distance < least[rows]) | ((distance == least[rows]) & (codes < found[rows]))
            least[rows[better]], found[rows[better]] = distance[better], codes[better]
