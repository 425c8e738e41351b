"""Exact nearest codes of many vectors at the speed of one matrix product."""

import numpy as np

# Codes and vectors in one matrix product: its scores (1.5 MiB) stay in a core's cache. Chosen by measuring.
_BLOCK, _ROWS = 400, 960
_GROUP = 16  # codes of which only the smallest score is kept
_PAIRS = 2048  # vectors compared with a group of codes at once: bounds the memory
_NEVER = 1e30  # score of the codes that fill up the last block
_LARGEST = 1e15  # of a vector in units of the codes' spread; beyond it, float32 can't tell codes apart


class NearestCodes:
    """Finds the nearest code in the Euclidean distance; of equally near ones the one with the lowest number.

    With m the mean of the codes, half of |e - c|^2 less what doesn't depend on c is

        score = |c - m|^2 / 2 - (e - m) . (c - m)

    A float32 matrix product gives all scores with an error whose bound is known. Codes within twice that bound of the
    smallest score are candidates, and where there are two or more, distances in float64, from the differences, decide.
    So the answer doesn't depend on how the product rounds: not on the batch a vector is in, nor on the machine.

    Args:
        codes: float32 of shape (K, W), finite.
    """

    def __init__(self, codes: np.ndarray) -> None:
        count, width = codes.shape
        blocks = -(-count // _BLOCK)
        self._groups = -(-count // (blocks * _GROUP))  # of a block
        size = self._groups * _GROUP
        self._codes = codes.astype(np.float64)
        self._mean = self._codes.mean(axis=0)
        centred = self._codes - self._mean
        spread = float(np.abs(centred).max())
        self._scale = 2.0 ** -np.ceil(np.log2(spread)) if spread else 1.0  # a power of two: scaling by it is exact
        centred *= self._scale
        padded = np.zeros((blocks * size, width + 1), dtype=np.float32)
        padded[:count, :width] = -centred
        padded[:count, width] = np.square(centred).sum(axis=1) / 2
        padded[count:, width] = _NEVER
        self._blocks = padded.reshape(blocks, size, width + 1)
        grouped = self._blocks.reshape(blocks, _GROUP, self._groups, width + 1).transpose(0, 2, 1, 3)
        self._grouped = np.ascontiguousarray(grouped).reshape(blocks * self._groups, _GROUP, width + 1)
        self._longest = float(np.sqrt(np.square(centred).sum(axis=1).max()))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(B, W) float32, finite -> (B,) int64."""
        found = np.empty(len(vectors), dtype=np.int64)
        blocks, size, _ = self._blocks.shape
        rows = min(len(vectors), _ROWS)
        scores = np.empty(size * rows, dtype=np.float32)
        smallest = np.empty(blocks * self._groups * rows, dtype=np.float32)
        for begin in range(0, len(vectors), _ROWS):
            found[begin : begin + _ROWS] = self._nearest(vectors[begin : begin + _ROWS], scores, smallest)
        return found

    def _nearest(self, vectors: np.ndarray, scores: np.ndarray, smallest: np.ndarray) -> np.ndarray:
        """The same for one block of vectors; the last two are memory to work in."""
        count, width = vectors.shape
        blocks, size, _ = self._blocks.shape
        extended = np.ones((count, width + 1), dtype=np.float32)
        with np.errstate(over="ignore"):
            np.multiply(vectors - self._mean, self._scale, out=extended[:, :width], casting="same_kind")
            length = np.sqrt(np.einsum("bw,bw->b", extended, extended)).astype(np.float64)
        far = ~(length <= _LARGEST)
        extended[far, :width] = length[far] = 0
        error = 1.01 * (width + 8) * 2.0**-24 * self._longest * (length + self._longest) + 1e-30

        transposed = np.ascontiguousarray(extended.T)
        scores = scores[: size * count].reshape(size, count)
        smallest = smallest[: blocks * self._groups * count].reshape(blocks, self._groups, count)
        for codes, of_groups in zip(self._blocks, smallest, strict=True):
            np.matmul(codes, transposed, out=scores)
            np.minimum.reduce(scores.reshape(_GROUP, self._groups, count), axis=0, out=of_groups)
        smallest = smallest.reshape(-1, count)
        # Rounded up: what is near in exact arithmetic stays below.
        limit = np.nextafter((smallest.min(axis=0) + 2 * error).astype(np.float32), np.float32(np.inf))
        limit[far] = np.inf  # every code
        pairs = np.flatnonzero(smallest <= limit)

        candidates = []
        least = np.full(count, np.inf)
        found = np.full(count, len(self._codes), dtype=np.int64)
        crowded = len(pairs) > 4 * count + _PAIRS
        for begin in range(0, len(pairs), _PAIRS):
            group, row = np.divmod(pairs[begin : begin + _PAIRS], count)
            near = np.einsum("pgw,pw->pg", self._grouped[group], extended[row]) <= limit[row, None]
            pair, place = np.nonzero(near)
            row, group = row[pair], group[pair]
            code = group // self._groups * size + place * self._groups + group % self._groups
            inside = code < len(self._codes)
            row, code = row[inside], code[inside]
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

    def _decide(
        self, vectors: np.ndarray, row: np.ndarray, code: np.ndarray, least: np.ndarray, found: np.ndarray
    ) -> None:
        """Takes candidates in: `least` and `found` are each vector's smallest distance and its code so far."""
        distance = np.square(vectors[row].astype(np.float64) - self._codes[code]).sum(axis=1)
        order = np.lexsort([code, distance, row])
        row, code, distance = row[order], code[order], distance[order]
        first = np.append(True, row[1:] != row[:-1])[: len(row)]
        row, code, distance = row[first], code[first], distance[first]
        better = (distance < least[row]) | ((distance == least[row]) & (code < found[row]))
        least[row[better]], found[row[better]] = distance[better], code[better]
