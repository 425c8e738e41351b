"""The users: tastes, habits, and whom they follow."""

import numpy as np

from beam_transforms.sources.simulator.authors import Authors
from beam_transforms.sources.simulator.behaviour import Behaviour
from beam_transforms.sources.simulator.content_states import LATENT, MATCH_SCALE, ContentStates, unit_rows

FAVOURITES = 8
_BLOCK = 65_536  # users drawn at a time, so that set-up needs little memory beside the columns themselves


class Users:
    """U users as columns.

    Attributes:
        taste: (U, LATENT) float32 unit vectors.
        activity: (U,) float64, cumulated and scaled to 1: for drawing users by activity.
        visit_length: (U,) mean impressions of a visit.
        entry, stay, like, comment, follow, share, gift, shop: (U,) float32, log effects.
        payer, shopper: (U,) bool.
    """

    def __init__(
        self,
        count: int,
        states: ContentStates,
        authors: Authors,
        behaviour: Behaviour,
        rng: np.random.Generator,
        taste_change_ms: int | None = None,
    ) -> None:
        self.count = count
        self._taste_change_ms = taste_change_ms

        def spread(scale: float) -> np.ndarray:
            return (scale * rng.standard_normal(count, dtype=np.float32)).astype(np.float32)

        self.activity = np.cumsum(np.exp(spread(0.9)).astype(np.float64))
        self.activity /= self.activity[-1]
        self.visit_length = 12.0 * np.exp(spread(0.4))
        self.entry = spread(behaviour.entry_user_spread)
        self.stay = spread(behaviour.leave_user_spread)
        engaged = spread(1.0)  # common to likes, comments and shares: some people take part, some watch
        self.like = np.float32(behaviour.like_user_spread) * (np.float32(0.6) * engaged + spread(0.8))
        self.comment = np.float32(behaviour.comment_user_spread) * (np.float32(0.6) * engaged + spread(0.8))
        self.share = np.float32(behaviour.share_user_spread) * (np.float32(0.6) * engaged + spread(0.8))
        self.follow = spread(behaviour.follow_user_spread)
        self.payer = rng.random(count) < behaviour.gift_payer_share
        self.gift = spread(behaviour.gift_user_spread)
        self.shopper = rng.random(count) < behaviour.shopper_share
        self.shop = spread(behaviour.product_click_spread)
        self.taste = np.empty((count, LATENT), np.float32)
        self._favourites = np.empty((count, FAVOURITES), np.int32)
        popularity = np.cumsum(np.sqrt(authors.popularity.astype(np.float64)))
        popularity /= popularity[-1]
        for begin in range(0, count, _BLOCK):
            block = slice(begin, min(count, begin + _BLOCK))
            self.taste[block] = self._draw_tastes(states, block.stop - begin, rng)
            self._favourites[block] = self._draw_favourites(self.taste[block], authors, popularity, rng)

    def liking(self, moment_ms: np.ndarray) -> np.ndarray:
        """Sign of what draws users to a room rather than another: 1, and -1 from the change of tastes on.

        Args:
            moment_ms: When rooms are shown, of any shape.

        Returns:
            float32 of the same shape.
        """
        if self._taste_change_ms is None:
            return np.ones(moment_ms.shape, np.float32)
        return np.where(moment_ms < self._taste_change_ms, np.float32(1.0), np.float32(-1.0))

    @staticmethod
    def _draw_tastes(states: ContentStates, count: int, rng: np.random.Generator) -> np.ndarray:
        """A taste is a mixture of three content states and something of its own."""
        liked = states.centres[rng.integers(0, len(states.centres), (count, 3))]
        weights = rng.dirichlet([1.0, 1.0, 1.0], count).astype(np.float32)
        own = rng.standard_normal((count, LATENT), dtype=np.float32) * np.float32(0.12)
        return unit_rows(np.einsum("ukl,uk->ul", liked, weights) + own)

    @staticmethod
    def _draw_favourites(
        taste: np.ndarray, authors: Authors, popularity: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Authors followed before the simulation starts: (users, FAVOURITES), -1 where there is none."""
        drawn = np.searchsorted(popularity, rng.random((len(taste), 3 * FAVOURITES)), side="right")
        score = MATCH_SCALE * np.einsum("ul,ucl->uc", taste, authors.style[drawn]) + rng.gumbel(size=drawn.shape)
        chosen = np.take_along_axis(drawn, np.argsort(-score, axis=1)[:, :FAVOURITES], axis=1)
        number = rng.integers(0, FAVOURITES, len(taste))
        chosen[np.arange(FAVOURITES) >= number[:, None]] = -1
        ordered = np.sort(chosen, axis=1)
        ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
        return ordered.astype(np.int32)

    def favourites(self, users: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` random followed authors for each of `users` (B,): (B, count), -1 where the draw hits no one."""
        return self._favourites[users[:, None], rng.integers(0, FAVOURITES, (len(users), count))]

    def follows(self, users: np.ndarray, authors: np.ndarray) -> np.ndarray:
        """Whether each of `users` follows the author beside it; broadcasts over `authors` (B,) or (B, C)."""
        followed = self._favourites[users]
        if authors.ndim == 1:
            return (followed == authors[:, None]).any(axis=1)
        return (followed[:, None, :] == authors[:, :, None]).any(axis=2)

    def start_following(self, users: np.ndarray, authors: np.ndarray, rng: np.random.Generator) -> None:
        """A follow takes a free place, or that of a random author whom the user forgets about.

        Memory of whom a user follows is of fixed size, whatever the length of the simulation.
        """
        while len(users):
            _, first = np.unique(users, return_index=True)  # a user who follows several authors fills several places
            free = self._favourites[users[first]] < 0
            place = np.where(free.any(axis=1), free.argmax(axis=1), rng.integers(0, FAVOURITES, len(first)))
            self._favourites[users[first], place] = authors[first]
            users, authors = np.delete(users, first), np.delete(authors, first)

    def stop_following(self, users: np.ndarray, authors: np.ndarray) -> None:
        """The reverse of `start_following`; nothing changes for those who don't follow."""
        row, place = np.nonzero(self._favourites[users] == authors[:, None])
        self._favourites[users[row], place] = -1
