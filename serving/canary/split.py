"""CanarySplit: which users a new version is tried on."""

import hashlib

import numpy as np

CANARY = "canary"
"""Label of the version that is tried."""

SIDES = ("stable", CANARY, "fell_back", "failed", "stable_failed")
"""What is counted apart: impressions of users of the stable version; of users of the canary, answered by the canary, or
by the stable version in its stead; and requests that nobody answered, of users of the canary and of the stable
version."""


class CanarySplit:
    """Divides users by a hash of their id and a salt: a user stays on a side, and no state is needed for it.

    Another salt divides them anew: with one salt an experiment, the users of the last one aren't those of the next.
    """

    def __init__(self, share: float, salt: str) -> None:
        """Defines the split.

        Args:
            share: Part of the users that get the new version, from 0 to 1.
            salt: Name of the experiment.

        Raises:
            ValueError: The share is out of range, or there is no salt.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"the share of a canary must be from 0 to 1, got {share!r}")
        if not salt:
            raise ValueError("a split needs a salt that names the experiment: else each would try the same users")
        self.share, self.salt = share, salt

    def label(self, user_id: int) -> str:
        """ "canary" or "stable": the label to rank by."""
        return CANARY if self.on_canary(np.array([user_id]))[0] else "stable"

    def on_canary(self, user_ids: np.ndarray) -> np.ndarray:
        """Which of the users (N,) get the new version, bool (N,)."""
        return hash_fractions(user_ids, self.salt) < self.share


def hash_fractions(user_ids: np.ndarray, salt: str) -> np.ndarray:
    """A number in [0, 1) for each id (N,), the same for the same id and salt on every machine, else as if drawn."""
    low, high = np.frombuffer(hashlib.blake2b(salt.encode(), digest_size=16).digest(), "<u8").astype(np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        mixed = _mix(_mix(np.asarray(user_ids).astype(np.int64).view(np.uint64) + low) ^ high)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): each bit of the input changes half of the output's."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
