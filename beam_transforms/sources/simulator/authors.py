"""The authors: style, popularity and what their rooms do to viewers."""

import numpy as np

from beam_transforms.sources.simulator.behaviour import Behaviour
from beam_transforms.sources.simulator.content_states import LATENT, MATCH_SCALE, ContentStates, unit_rows

STYLE_STATES = 6
"""Number of content states that an author moves between."""


class Authors:
    """A authors as columns.

    Attributes:
        style: (A, LATENT) float32 unit vectors.
        states: (A, STYLE_STATES) indices of content states.
        transition: (A, STYLE_STATES, STYLE_STATES) float32, cumulated over the last dimension: where an author goes
            from a state; never to the state itself.
        dwell_windows: (A, STYLE_STATES) mean windows of 30 s that the author stays in a state.
        popularity: (A,) share of the platform's attention, relative.
        entry, stay, like, comment, gift: (A,) log effects on viewers.
        highlight: (A,) mean size of the author's highlights.
        shopping: (A,) whether products are sold.
        minutes: (A,) median length of the author's rooms.
    """

    def __init__(self, count: int, states: ContentStates, behaviour: Behaviour, rng: np.random.Generator) -> None:
        self.count = count
        self.style = unit_rows(rng.standard_normal((count, LATENT)))
        affinity = MATCH_SCALE * np.einsum("al,sl->as", self.style, states.centres)
        affinity += rng.gumbel(size=affinity.shape)
        self.states = np.argsort(-affinity, axis=1)[:, :STYLE_STATES].astype(np.int64)
        transition = rng.gamma(0.4, size=(count, STYLE_STATES, STYLE_STATES)) + 1e-3
        transition[:, np.arange(STYLE_STATES), np.arange(STYLE_STATES)] = 0.0
        cumulative = np.cumsum(transition, axis=2)
        self.transition = (cumulative / cumulative[:, :, -1:]).astype(np.float32)
        self.dwell_windows = np.exp(rng.normal(np.log(9.0), 0.4, (count, STYLE_STATES)))

        def spread(scale: float) -> np.ndarray:
            return rng.normal(0.0, scale, count).astype(np.float32)

        self.popularity = np.exp(spread(behaviour.popularity_spread))
        self.entry = spread(behaviour.entry_author_spread)
        self.stay = spread(behaviour.leave_author_spread)
        self.like = spread(behaviour.like_author_spread)
        self.comment = spread(behaviour.comment_author_spread)
        self.gift = spread(behaviour.gift_author_spread)
        self.highlight = np.exp(spread(0.2))
        self.shopping = rng.random(count) < behaviour.shopping_author_share
        self.minutes = np.exp(rng.normal(np.log(140.0), 0.4, count))

    def profile(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Columns of `author_profile.csv`; the follower bin is as of the simulation's start."""
        fans = np.exp(np.log(self.popularity) + rng.normal(8.0, 0.8, self.count))
        bins = np.array(["[0,100)", "[100,1000)", "[1000,10000)", "[10000,100000)", "[100000,)"])
        ages = np.array(["0-17", "18-23", "24-30", "31-40", "41-49", "50+", "U"])
        return {
            "author_id": np.arange(self.count),
            "is_photo_author": rng.integers(0, 2, self.count),
            "is_live_author": np.ones(self.count, np.int64),
            "gender": np.array(["F", "M", "U"])[rng.integers(0, 3, self.count)],
            "age_segment": ages[rng.integers(0, len(ages), self.count)],
            "fans_user_num": bins[np.digitize(fans, [1e2, 1e3, 1e4, 1e5])],
        }
