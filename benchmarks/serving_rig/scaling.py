"""How throughput grows with the number of clients."""

import itertools
from collections.abc import Mapping

import numpy as np

_GROWTH = 1.1
_BEYOND = 1000


def knee(rates: Mapping[int, float]) -> int:
    """The first number of clients beyond which the next one measured gets less than 10 % more done.

    Args:
        rates: Clients -> requests a second.
    """
    levels = sorted(rates)
    for level, following in itertools.pairwise(levels):
        if rates[following] < _GROWTH * rates[level]:
            return level
    return levels[-1]


def scaling_law(rates: Mapping[int, float]) -> dict[str, float | None]:
    """The universal scalability law, fitted by least squares of relative errors:

        rate(N) = rate_1 N / (1 + contention (N - 1) + coherency N (N - 1))

    Args:
        rates: Clients -> requests a second, of at least three levels.

    Returns:
        rate_1, contention, coherency, and clients_at_peak: sqrt((1 - contention) / coherency), None where that is
        beyond a thousand times what was measured: the rate goes on growing.
    """
    clients = np.array(sorted(rates), dtype=float)
    each = clients / np.array([rates[int(level)] for level in clients])
    terms = np.stack([np.ones_like(clients), clients - 1, clients * (clients - 1)], axis=1)
    base, contention, coherency = np.linalg.lstsq(terms / each[:, None], np.ones_like(each), rcond=None)[0]
    law = {"rate_1": 1 / base, "contention": contention / base, "coherency": coherency / base}
    law = {name: float(value) for name, value in law.items()}
    peak_squared = (1 - law["contention"]) / max(law["coherency"], 1e-12)
    found = 0 <= peak_squared <= (_BEYOND * clients[-1]) ** 2
    return {**law, "clients_at_peak": float(np.sqrt(peak_squared)) if found else None}
