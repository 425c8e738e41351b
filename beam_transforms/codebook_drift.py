"""How far the use of the codes has moved from one span to another."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class CodebookDrift:
    """Two measures of the distance between the distributions of codes of two spans. Both are symmetric, 0 if equal.

    Both see the chance in the counts, too: two samples, of n and m segments, of one and the same distribution over k
    codes differ. `noise` says by how much, so that only an index well above it speaks of drift. With 20,000 codes this
    takes millions of segments a span; with fewer, compare counts of coarser groups of codes.

    Attributes:
        jensen_shannon_bits: Jensen-Shannon divergence, from 0 to 1 bit (no code in common): how much one segment's code
            tells about which of the two spans it is from. It doesn't depend on rare codes much.
        population_stability_index: sum (q - p) ln(q / p), from 0 up, with half a segment added to each code so that a
            code without a segment has no infinite weight. The usual reading: below 0.1 stable, 0.1 to 0.25 look at it,
            above 0.25 train a new codebook. It weighs rare codes heavily.
        noise: The index to expect by chance alone, (k - 1) (1 / n + 1 / m), k the codes that either span uses. The
            divergence to expect is about noise / (8 ln 2).
    """

    jensen_shannon_bits: float
    population_stability_index: float
    noise: float


def drift(previous_counts: np.ndarray, counts: np.ndarray) -> CodebookDrift:
    """Compares the numbers of segments of each code, (K,) each, of two spans or of the training and a span.

    Raises:
        ValueError: If the two are of different codebooks, or either has no segment.
    """
    previous, current = np.asarray(previous_counts, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if previous.ndim != 1 or previous.shape != current.shape:
        raise ValueError(
            f"expected counts of one codebook, both of shape (K,), got {previous.shape} and {current.shape}"
        )
    if previous.min(initial=0) < 0 or current.min(initial=0) < 0 or not previous.sum() or not current.sum():
        raise ValueError(
            f"counts must be >= 0 and not all 0, got {previous.sum():g} and {current.sum():g} segments in total"
        )
    p, q = previous / previous.sum(), current / current.sum()
    middle = (p + q) / 2
    divergence = _entropy(middle) - (_entropy(p) + _entropy(q)) / 2
    smooth_p = (previous + 0.5) / (previous + 0.5).sum()
    smooth_q = (current + 0.5) / (current + 0.5).sum()
    used = np.count_nonzero(middle)
    return CodebookDrift(
        jensen_shannon_bits=float(np.clip(divergence, 0, 1)),
        population_stability_index=float(((smooth_q - smooth_p) * np.log(smooth_q / smooth_p)).sum()),
        noise=float((used - 1) * (1 / previous.sum() + 1 / current.sum())),
    )


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())
