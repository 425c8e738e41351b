"""Users' visits: which rooms they are shown, which they enter, and how long they stay."""

import dataclasses

import numpy as np

from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.simulator.authors import Authors
from beam_transforms.sources.simulator.behaviour import Behaviour
from beam_transforms.sources.simulator.content_states import MATCH_SCALE, ContentStates
from beam_transforms.sources.simulator.rooms import Rooms
from beam_transforms.sources.simulator.users import Users

VISIT_MS = 90 * 60_000
"""A visit shows no further room after this time."""

_POPULAR, _FOLLOWED = 4, 2  # candidates that the platform ranks for one impression
_REMEMBERED = 8  # rooms shown last, which aren't shown again
_STAGES = (16, 104)  # windows of a stay that are computed at once; few stays need the second stage
_LONGEST_VISIT = 60  # impressions


@dataclasses.dataclass(frozen=True)
class Impressions:
    """I impressions as columns: user, room (index into Rooms), start_ms, and for those entered the rest.

    Attributes:
        user, room, start_ms: (I,) int64.
        entered: (I,) bool.
        end_ms: (I,) int64, when the user left; start_ms where not entered.
        follows: (I,) bool, whether the user follows the author when the room is shown.
        from_followed: (I,) bool, whether the room was found through the followed authors.
    """

    user: np.ndarray
    room: np.ndarray
    start_ms: np.ndarray
    entered: np.ndarray
    end_ms: np.ndarray
    follows: np.ndarray
    from_followed: np.ndarray

    def select(self, which: np.ndarray) -> "Impressions":
        """The impressions at `which`, a mask (I,) or indices."""
        return Impressions(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))


class Visits:
    """Simulates visits, side by side for all that start in one stretch of time."""

    def __init__(
        self,
        users: Users,
        authors: Authors,
        states: ContentStates,
        rooms: Rooms,
        behaviour: Behaviour,
        end_ms: int,
        rng: np.random.Generator,
    ) -> None:
        self._users, self._authors, self._rooms = users, authors, rooms
        self._behaviour, self._end_ms, self._rng = behaviour, end_ms, rng
        self._author_centres = np.float32(MATCH_SCALE) * states.centres[authors.states]
        self._busy_until_ms = np.zeros(users.count, np.int64)

    def match(self, users: np.ndarray, authors: np.ndarray) -> np.ndarray:
        """How the taste of `users` (B,) matches each of the states of `authors` (B,): (B, STYLE_STATES)."""
        return np.einsum("bl,bsl->bs", self._users.taste[users], self._author_centres[authors])

    def simulate(self, begin_ms: int, end_ms: int, visits: float) -> Impressions:
        """About `visits` visits that start in [begin_ms, end_ms), whole; a user has one visit at a time."""
        rng = self._rng
        if self._rooms.last < 0:
            visits = 0.0
        drawn = np.searchsorted(self._users.activity, rng.random(rng.poisson(visits)), side="right")
        users = np.unique(np.minimum(drawn, self._users.count - 1))
        begin = rng.integers(begin_ms, end_ms, len(users))
        free = self._busy_until_ms[users] <= begin
        users, begin = users[free], begin[free]
        left = np.minimum(rng.geometric(1.0 / np.maximum(self._users.visit_length[users], 1.0)), _LONGEST_VISIT)
        now = begin.copy()
        mood = self._behaviour.mood_spread * rng.standard_normal(len(users))
        shown_last = np.full((len(users), _REMEMBERED), -1, np.int64)
        steps: list[Impressions] = []
        active = np.arange(len(users))
        step = 0
        while len(active):
            impressions = self._show(users[active], now[active], mood[active], shown_last[active])
            shown_last[active, step % _REMEMBERED] = impressions.room
            pause = 1500 + (2500 * rng.standard_exponential(len(active))).astype(np.int64)
            now[active] = impressions.end_ms + pause
            left[active] -= 1
            steps.append(impressions.select(impressions.room >= 0))
            ends = np.minimum(begin[active] + VISIT_MS, self._end_ms)
            active = active[(left[active] > 0) & (now[active] < ends)]
            step += 1
        self._busy_until_ms[users] = now
        return Impressions(
            *(
                np.concatenate([getattr(part, field.name) for part in steps] or [np.empty(0, np.int64)])
                for field in dataclasses.fields(Impressions)
            )
        )

    def _show(self, users: np.ndarray, now: np.ndarray, mood: np.ndarray, shown_last: np.ndarray) -> Impressions:
        """One impression for each of `users` (B,) at `now` (B,); room is -1 where no room is live."""
        behaviour, rooms, rng = self._behaviour, self._rooms, self._rng
        room, from_followed = self._choose(users, now, shown_last)
        none = room < 0
        seen = np.where(none, 0, room)
        author = rooms.author[seen]
        content = rooms.offset[seen] + np.clip((now - rooms.start_ms[seen]) // WINDOW_MS, 0, rooms.windows[seen] - 1)
        follows = self._users.follows(users, author)
        liking = self._users.liking(now)
        match = liking[:, None] * self.match(users, author)
        logit = (
            behaviour.entry
            + self._users.entry[users]
            + mood
            + liking * self._authors.entry[author]
            + behaviour.entry_match * match[np.arange(len(users)), rooms.state[content]]
            + behaviour.entry_heat * rooms.heat[content]
            + liking * (behaviour.entry_follow * follows)
        )
        entered = (rng.random(len(users)) < 1.0 / (1.0 + np.exp(-logit))) & ~none
        end = now.copy()
        chosen = np.flatnonzero(entered)
        end[chosen] += self._stay_ms(
            users[chosen], room[chosen], now[chosen], follows[chosen], match[chosen], liking[chosen]
        )
        return Impressions(users, room, now, entered, end, follows, from_followed)

    def _choose(self, users: np.ndarray, now: np.ndarray, shown_last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best of a few candidates, popular ones and those of followed authors, with some chance."""
        behaviour, rooms, rng = self._behaviour, self._rooms, self._rng
        moment = now[:, None]
        followed = rooms.of_authors(self._users.favourites(users, rng, _FOLLOWED), moment)
        candidates = np.concatenate([rooms.draw((len(users), _POPULAR), rng), followed], axis=1)
        live = (candidates >= 0) & (rooms.start_ms[candidates] <= moment) & (moment < rooms.end_ms[candidates])
        live &= ~(candidates[:, :, None] == shown_last[:, None, :]).any(axis=2)
        window = np.clip((moment - rooms.start_ms[candidates]) // WINDOW_MS, 0, rooms.windows[candidates] - 1)
        content = rooms.offset[candidates] + window
        state = rooms.state[content]
        centre = self._author_centres[rooms.author[candidates], state]
        score = (
            behaviour.ranking_match * np.einsum("bl,bcl->bc", self._users.taste[users], centre)
            + behaviour.ranking_buzz * rooms.buzz[content]
            + rng.gumbel(size=candidates.shape)
        )
        score[:, _POPULAR:] += behaviour.ranking_follow
        score[~live] = -np.inf
        best = score.argmax(axis=1)
        row = np.arange(len(users))
        return np.where(live[row, best], candidates[row, best], -1), best >= _POPULAR

    def _stay_ms(
        self,
        users: np.ndarray,
        room: np.ndarray,
        now: np.ndarray,
        follows: np.ndarray,
        match: np.ndarray,
        liking: np.ndarray,
    ) -> np.ndarray:
        """How long users stay: the hazard of leaving in each window depends on what that window shows."""
        behaviour, rooms, rng = self._behaviour, self._rooms, self._rng
        base = (
            behaviour.leave
            - self._users.stay[users]
            - liking * self._authors.stay[rooms.author[room]]
            - liking * (behaviour.leave_follow * follows)
        )
        patience = rng.standard_exponential(len(users))
        into_window = (now - rooms.start_ms[room]) % WINDOW_MS / WINDOW_MS
        stay = np.full(len(users), sum(_STAGES) - into_window)  # in windows
        current = (now - rooms.start_ms[room]) // WINDOW_MS
        left = np.arange(len(users))
        passed = 0
        for length in _STAGES:
            window = current[left][:, None] + passed + np.arange(length)
            content = rooms.offset[room[left]][:, None] + np.minimum(window, rooms.windows[room[left]][:, None] - 1)
            hazard = np.exp(
                base[left][:, None]
                - behaviour.leave_match * np.take_along_axis(match[left], rooms.state[content].astype(np.int64), axis=1)
                - behaviour.leave_heat * rooms.heat[content]
            )
            if passed == 0:
                hazard[:, 0] *= 1.0 - into_window
            total = np.cumsum(hazard, axis=1)
            leaves = total > patience[left][:, None]
            leaving = leaves.any(axis=1)
            at = leaves.argmax(axis=1)
            row = np.arange(len(left))
            rest = 1.0 - (total[row, at] - patience[left]) / hazard[row, at]  # share of the window's hazard used up
            width = np.where((at == 0) & (passed == 0), 1.0 - into_window[left], 1.0)
            whole = passed + at - np.where((at > 0) | (passed > 0), into_window[left], 0.0)
            stay[left] = np.where(leaving, whole + rest * width, stay[left])
            patience[left] -= total[:, -1]
            left, passed = left[~leaving], passed + length
        milliseconds = (stay * WINDOW_MS).astype(np.int64)
        bounce = rng.random(len(users)) < behaviour.bounce
        milliseconds = np.where(bounce, 1000 + (9000 * rng.random(len(users))).astype(np.int64), milliseconds)
        return np.maximum(np.minimum(milliseconds, np.minimum(rooms.end_ms[room], self._end_ms) - now), 1)
