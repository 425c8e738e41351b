"""The simulated process: who is shown what, and that what comes next decides what viewers do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_transforms.sources.simulator import Behaviour
from beam_transforms.sources.simulator.authors import Authors
from beam_transforms.sources.simulator.catalogue import CATEGORIES_1, CATEGORIES_2, CATEGORIES_3, Catalogue
from beam_transforms.sources.simulator.clock import activity
from beam_transforms.sources.simulator.content_states import ContentStates
from beam_transforms.sources.simulator.ragged import fill, positions_within
from beam_transforms.sources.simulator.room_content import NO_PRODUCT, draw_content
from beam_transforms.sources.simulator.time_ordered_buffer import TimeOrderedBuffer

from .conftest import build_platform


def _heat(rooms, room, moment_ms):
    """Heat of `room` (B,) at `moment_ms` (B,)."""
    return rooms.heat[rooms.offset[room] + (moment_ms - rooms.start_ms[room]) // 30_000]


def _visits_with_future_heat(heat):
    """Visits that start within one second, on a platform whose heat from then on is `heat` everywhere."""
    platform = build_platform(5)
    later = platform.rooms.segment_end_ms - 30_000 >= platform.now + 1000
    platform.rooms.heat[later] = heat
    return platform.now, platform.visits.simulate(platform.now, platform.now + 1000, 1_500)


def test_future_content_decides_who_stays_but_not_who_enters():
    now, hot = _visits_with_future_heat(1.0)
    _, cold = _visits_with_future_heat(-0.5)
    first_hot, first_cold = (visits.select(visits.start_ms < now + 1000) for visits in (hot, cold))
    assert len(first_hot.user) > 500
    for name in ("user", "room", "start_ms", "entered", "follows", "from_followed"):
        np.testing.assert_array_equal(getattr(first_hot, name), getattr(first_cold, name))
    hot_s, cold_s = ((visits.end_ms - visits.start_ms)[visits.entered] / 1000 for visits in (first_hot, first_cold))
    assert (hot_s >= cold_s).all()
    assert (hot_s >= 60).mean() > (cold_s >= 60).mean() + 0.2


def test_gifts_fall_into_highlights(evening):
    gifts, sessions = evening.actions["gift"], evening.sessions
    at_gift = _heat(evening.rooms, sessions.room[gifts.session], gifts.timestamp)
    at_entry = _heat(evening.rooms, sessions.room, sessions.start_ms)
    assert len(at_gift) > 50
    assert at_gift.mean() > at_entry.mean() + 0.3


def test_only_payers_give(evening):
    gifts = evening.actions["gift"]
    assert evening.users.payer[evening.sessions.user[gifts.session]].all()
    assert (gifts.price > 0).all()


def test_users_are_shown_live_rooms_and_rather_those_they_like(evening):
    impressions, rooms = evening.impressions, evening.rooms
    assert (rooms.start_ms[impressions.room] <= impressions.start_ms).all()
    assert (impressions.start_ms < rooms.end_ms[impressions.room]).all()
    window = (impressions.start_ms - rooms.start_ms[impressions.room]) // 30_000
    state = rooms.state[rooms.offset[impressions.room] + window]
    author, row = rooms.author[impressions.room], np.arange(len(state))
    others = np.random.default_rng(0).permutation(impressions.user)
    shown, anyone = (evening.visits.match(users, author)[row, state].mean() for users in (impressions.user, others))
    assert shown > anyone + 0.05


def test_followed_authors_are_remembered_and_forgotten(evening):
    users, rng = evening.users, np.random.default_rng(0)
    user, author = np.array([11, 11, 12]), np.array([40, 41, 40])
    users.stop_following(user, author)
    assert not users.follows(user, author).any()
    users.start_following(user, author, rng)
    assert users.follows(user, author).all()
    assert users.follows(np.array([11]), np.array([[40, 41]])).tolist() == [[True, True]]
    users.stop_following(user[:1], author[:1])
    assert users.follows(user, author).tolist() == [False, True, True]


def test_content_of_a_room():
    rng = np.random.default_rng(0)
    behaviour = Behaviour()
    states = ContentStates(rng)
    authors = Authors(50, states, behaviour, rng)
    room_authors = np.arange(50)
    windows = np.full(50, 400)
    content = draw_content(room_authors, windows, authors, Catalogue(rng), behaviour, rng)
    state = content.state.reshape(50, 400)
    changes = np.diff(state, axis=1) != 0
    assert 5 < 1 / changes.mean() < 20  # windows that a state lasts
    assert ((content.buzz >= content.heat - 1e-6) & (content.buzz >= 0)).all()
    assert content.heat.min() < -0.2
    assert content.heat.max() > 0.9
    # Buzz foretells heat: within the next two minutes it is higher after a beginning build-up than without any buzz.
    buzz, heat = content.buzz.reshape(50, 400), content.heat.reshape(50, 400)
    later = np.stack([heat[:, shift : 390 + shift] for shift in range(3, 6)]).mean(axis=0)
    building = (buzz[:, :390] > 0.2) & (heat[:, :390] < 0.2) & (np.diff(buzz, axis=1)[:, :390] > 0)
    assert later[building].mean() > later[buzz[:, :390] == 0].mean() + 0.4
    sells = (content.product.reshape(50, 400) != NO_PRODUCT).all(axis=1)
    assert (sells == authors.shopping).all()
    assert set(content.product_room) == set(np.flatnonzero(authors.shopping))


def test_segment_embeddings_tell_states_apart():
    rng = np.random.default_rng(0)
    states = ContentStates(rng)
    state = np.repeat(np.arange(10), 50)
    style = np.broadcast_to(states.centres[20], (500, 16))
    embeddings = states.segment_embeddings(state, style, np.zeros(500), rng)
    centres = embeddings.reshape(10, 50, 128).mean(axis=1)
    nearest = np.linalg.norm(embeddings[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == state).mean() > 0.95


def test_products_are_sold_in_related_runs():
    rng = np.random.default_rng(0)
    catalogue = Catalogue(rng)
    authors = np.arange(400) % 40
    products = catalogue.first_products(authors, rng)
    same_3 = same_2 = same_1 = 0.0
    for _ in range(20):
        following = catalogue.next_products(authors, products, rng)
        before, after = catalogue.categories(products), catalogue.categories(following)
        same_1, same_2, same_3 = (
            total + (old == new).mean() / 20
            for total, old, new in zip((same_1, same_2, same_3), before, after, strict=True)
        )
        assert after[0].max() < CATEGORIES_1 and after[1].max() < CATEGORIES_2 and after[2].max() < CATEGORIES_3
        products = following
    assert same_3 == pytest.approx(0.25, abs=0.05)
    assert 0.55 < same_2 < 0.75
    assert 0.8 < same_1 < 0.97


def test_activity_averages_one_over_a_day_and_is_highest_in_the_evening():
    minutes = 1_748_822_400_000 + 60_000 * np.arange(1440)
    values = activity(minutes)
    assert values.mean() == pytest.approx(1.0, abs=0.01)
    assert 19 <= values.argmax() / 60 <= 22
    assert values.max() > 5 * values.min()


@given(st.lists(st.integers(0, 6), max_size=20))
def test_positions_within_counts_up_in_each_piece(lengths):
    expected = [position for length in lengths for position in range(length)]
    assert positions_within(np.array(lengths, np.int64)).tolist() == expected


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10), st.integers(0, 1000))
def test_fill_covers_each_room_exactly(windows, seed):
    rng = np.random.default_rng(seed)
    lengths, (labels,) = fill(np.array(windows), lambda: (rng.integers(1, 7, len(windows)), rng.random(len(windows))))
    assert lengths.sum(axis=1).tolist() == windows
    assert lengths.shape == labels.shape
    assert (np.diff((lengths > 0).astype(int), axis=1) <= 0).all()  # no gap


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 60)),
        max_size=8,
    )
)
def test_buffer_gives_every_row_once_in_order(steps):
    buffer = TimeOrderedBuffer("time")
    taken, added, number = [], [], 0
    for times, before in steps:
        buffer.add({"time": np.array(times, np.int64), "row": number + np.arange(len(times))})
        added += [(time, number + i) for i, time in enumerate(times)]
        number += len(times)
        piece = buffer.take(before)
        rows = list(zip(piece["time"].tolist(), piece["row"].tolist(), strict=True)) if piece else []
        assert [time for time, _ in rows] == sorted(time for time, _ in rows)
        assert all(time < before for time, _ in rows)
        taken += rows
    rest = buffer.take(1_000)
    taken += list(zip(rest["time"].tolist(), rest["row"].tolist(), strict=True)) if rest else []
    assert sorted(taken) == sorted(added)
