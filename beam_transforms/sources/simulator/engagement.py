"""What viewers do while they stay: each window's content decides how likely each action is in that window."""

import dataclasses

import numpy as np

from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.simulator.authors import Authors
from beam_transforms.sources.simulator.behaviour import Behaviour
from beam_transforms.sources.simulator.catalogue import Catalogue
from beam_transforms.sources.simulator.content_states import MATCH_SCALE
from beam_transforms.sources.simulator.ragged import positions_within
from beam_transforms.sources.simulator.room_content import NO_PRODUCT
from beam_transforms.sources.simulator.rooms import Rooms
from beam_transforms.sources.simulator.users import Users
from beam_transforms.sources.simulator.visits import Impressions, Visits

_GIFT_PRICES = np.array([1.0, 2.0, 5.0, 10.0, 20.0, 52.0, 99.0])
_GIFT_SHARES = np.cumsum([0.35, 0.2, 0.18, 0.13, 0.08, 0.04, 0.02])
_LIKES_AT_MOST, _OTHERS_AT_MOST = 25.0, 3.0  # mean number per viewer and window
_ORDER_DELAY_MS = (3_000, 40_000)


@dataclasses.dataclass(frozen=True)
class Actions:
    """Actions of one kind: `session` (E,) is an index into the sessions, `timestamp` (E,) is in ms.

    `price` and `product` are (E,) for the kinds that have one, otherwise empty.
    """

    session: np.ndarray
    timestamp: np.ndarray
    price: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    product: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))


@dataclasses.dataclass(frozen=True)
class _Stays:
    """Viewer-windows (V,): each window of each session, cut to the session."""

    session: np.ndarray
    content: np.ndarray
    begin_ms: np.ndarray
    length_ms: np.ndarray


class Engagement:
    """Draws the actions of sessions."""

    def __init__(
        self,
        users: Users,
        authors: Authors,
        catalogue: Catalogue,
        rooms: Rooms,
        visits: Visits,
        behaviour: Behaviour,
        rng: np.random.Generator,
    ) -> None:
        self._users, self._authors, self._catalogue = users, authors, catalogue
        self._rooms, self._visits, self._behaviour, self._rng = rooms, visits, behaviour, rng

    def simulate(self, sessions: Impressions) -> dict[str, Actions]:
        """Actions of `sessions`, all of them entered, by kind; marks the windows seen as viewed.

        Kinds: like, comment, gift, follow, share, product_click, cart_click, order.
        """
        stays = self._stays(sessions)
        self._rooms.viewed[stays.content] = True
        behaviour, users, rooms = self._behaviour, self._users, self._rooms
        author = rooms.author[sessions.room]
        liking = users.liking(sessions.start_ms)
        match = self._visits.match(sessions.user, author)[stays.session, rooms.state[stays.content]]
        match = liking[stays.session] * match
        heat, buzz = rooms.heat[stays.content], rooms.buzz[stays.content]
        common = behaviour.engaged_match * match
        fan = liking * (behaviour.engaged_follow * sessions.follows)

        def rate(of_session: np.ndarray, of_window: np.ndarray) -> np.ndarray:
            return np.exp(of_session[stays.session] + of_window + common)

        like = behaviour.like + users.like[sessions.user] + liking * self._authors.like[author] + fan
        comment = behaviour.comment + users.comment[sessions.user] + liking * self._authors.comment[author] + fan
        gift = behaviour.gift + users.gift[sessions.user] + liking * self._authors.gift[author] + fan
        follow = behaviour.follow + users.follow[sessions.user]
        share = behaviour.share + users.share[sessions.user]
        gift += liking * (behaviour.gift_follow * sessions.follows)
        gift[~users.payer[sessions.user]] = -np.inf
        follow[sessions.follows] = -np.inf
        actions = {
            "like": self._draw(
                stays, rate(like, behaviour.like_buzz * buzz + behaviour.like_heat * heat), _LIKES_AT_MOST
            ),
            "comment": self._draw(stays, rate(comment, behaviour.comment_buzz * buzz)),
            "gift": self._draw(stays, rate(gift, behaviour.gift_heat * heat)),
            "follow": self._first(sessions, self._draw(stays, rate(follow, behaviour.follow_heat * heat))),
            "share": self._draw(stays, rate(share, behaviour.share_heat * heat)),
        }
        drawn = np.searchsorted(_GIFT_SHARES, self._rng.random(len(actions["gift"].session)), side="right")
        prices = _GIFT_PRICES[np.minimum(drawn, len(_GIFT_PRICES) - 1)]
        actions["gift"] = dataclasses.replace(actions["gift"], price=prices)
        return actions | self._shop(sessions, stays, heat)

    def _stays(self, sessions: Impressions) -> _Stays:
        rooms = self._rooms
        opened = rooms.start_ms[sessions.room]
        first = (sessions.start_ms - opened) // WINDOW_MS
        number = (sessions.end_ms - 1 - opened) // WINDOW_MS - first + 1
        session = np.repeat(np.arange(len(number)), number)
        window = first[session] + positions_within(number)
        window_begin = opened[session] + WINDOW_MS * window
        begin = np.maximum(window_begin, sessions.start_ms[session])
        end = np.minimum(window_begin + WINDOW_MS, sessions.end_ms[session])
        return _Stays(session, rooms.offset[sessions.room][session] + window, begin, end - begin)

    def _draw(self, stays: _Stays, rate: np.ndarray, at_most: float = _OTHERS_AT_MOST) -> Actions:
        """Poisson numbers with mean `rate` (V,) per 30 seconds, at even times."""
        mean = np.minimum(rate, at_most) * (stays.length_ms / WINDOW_MS)
        possible = np.flatnonzero(mean > 0)
        number = self._rng.poisson(mean[possible])
        chosen = np.repeat(possible, number)
        moment = (self._rng.random(len(chosen)) * stays.length_ms[chosen]).astype(np.int64)
        return Actions(stays.session[chosen], stays.begin_ms[chosen] + moment)

    def _first(self, sessions: Impressions, actions: Actions) -> Actions:
        """The first action of each user and author: nobody follows twice."""
        order = np.argsort(actions.timestamp, kind="stable")
        session = actions.session[order]
        pair = sessions.user[session] * self._authors.count + self._rooms.author[sessions.room[session]]
        _, first = np.unique(pair, return_index=True)
        return Actions(session[first], actions.timestamp[order][first])

    def _shop(self, sessions: Impressions, stays: _Stays, heat: np.ndarray) -> dict[str, Actions]:
        """Clicks on the product explained at the time, on the cart, and orders that follow a product click."""
        behaviour, rng = self._behaviour, self._rng
        selling = np.flatnonzero(self._rooms.product[stays.content] != NO_PRODUCT)
        stays = _Stays(*(getattr(stays, field.name)[selling] for field in dataclasses.fields(_Stays)))
        user = sessions.user[stays.session]
        product = self._rooms.product[stays.content].astype(np.int64)
        wanted = self._catalogue.taste[self._catalogue.categories(product)[0]]
        taste = self._users.liking(sessions.start_ms)[stays.session, None] * self._users.taste[user]
        log_rate = (
            behaviour.product_click
            + self._users.shop[user]
            + np.where(self._users.shopper[user], 0.0, behaviour.product_click_other)
            + behaviour.product_click_heat * heat[selling]
            + behaviour.engaged_match * MATCH_SCALE * np.einsum("bl,bl->b", taste, wanted)
        )
        rate = np.exp(log_rate)
        clicks = self._with_product(sessions, self._draw(stays, rate))
        cart = self._with_product(sessions, self._draw(stays, behaviour.cart_click_share * rate))
        content = self._content(sessions, clicks)
        chance = behaviour.order_share * np.exp(behaviour.order_heat * self._rooms.heat[content])
        later = clicks.timestamp + rng.integers(*_ORDER_DELAY_MS, len(clicks.timestamp))
        bought = (rng.random(len(later)) < chance) & (later < sessions.end_ms[clicks.session])
        orders = Actions(clicks.session[bought], later[bought], clicks.price[bought], clicks.product[bought])
        return {"product_click": clicks, "cart_click": cart, "order": orders}

    def _content(self, sessions: Impressions, actions: Actions) -> np.ndarray:
        room = sessions.room[actions.session]
        return self._rooms.offset[room] + (actions.timestamp - self._rooms.start_ms[room]) // WINDOW_MS

    def _with_product(self, sessions: Impressions, actions: Actions) -> Actions:
        product = self._rooms.product[self._content(sessions, actions)].astype(np.int64)
        return dataclasses.replace(actions, product=product, price=self._catalogue.price[product])
