"""What rooms show, window by window: content states, highlights and products."""

import dataclasses

import numpy as np

from beam_transforms.sources.simulator.authors import STYLE_STATES, Authors
from beam_transforms.sources.simulator.behaviour import Behaviour
from beam_transforms.sources.simulator.catalogue import Catalogue
from beam_transforms.sources.simulator.ragged import fill, positions_within

NO_PRODUCT = -1
_PRODUCT_WINDOWS = (4, 12)  # a product is explained for two to six minutes


@dataclasses.dataclass(frozen=True)
class RoomContent:
    """Windows of R rooms, one room after the other (W windows in all), and the products that they show.

    Attributes:
        state: (W,) int8, index into the author's own states.
        buzz: (W,) float32: rises evenly before a highlight.
        heat: (W,) float32: 1 at the peak of an average highlight, negative in the lull after it.
        product: (W,) int32, `NO_PRODUCT` where nothing is sold.
        product_room, product_window, product_id: (P,) the products in the order in which they are shown.
    """

    state: np.ndarray
    buzz: np.ndarray
    heat: np.ndarray
    product: np.ndarray
    product_room: np.ndarray
    product_window: np.ndarray
    product_id: np.ndarray


def draw_content(
    room_authors: np.ndarray,
    windows: np.ndarray,
    authors: Authors,
    catalogue: Catalogue,
    behaviour: Behaviour,
    rng: np.random.Generator,
) -> RoomContent:
    """Content of rooms of `room_authors` (R,) with `windows` (R,) windows of 30 seconds each."""
    state = _draw_states(room_authors, windows, authors, rng)
    buzz, heat = _draw_highlights(windows, authors.highlight[room_authors], behaviour, rng)
    product = np.full(int(windows.sum()), NO_PRODUCT, np.int32)
    shopping = np.flatnonzero(authors.shopping[room_authors])
    if not len(shopping):
        empty = np.empty(0, np.int64)
        return RoomContent(state, buzz, heat, product, empty, empty, empty)
    lengths, ids = _draw_products(room_authors[shopping], windows[shopping], catalogue, rng)
    product[np.repeat(authors.shopping[room_authors], windows)] = np.repeat(ids.ravel(), lengths.ravel())
    shown = lengths > 0
    begin = np.cumsum(lengths, axis=1) - lengths
    rooms = np.broadcast_to(shopping[:, None], lengths.shape)
    return RoomContent(state, buzz, heat, product, rooms[shown], begin[shown], ids[shown])


def _draw_states(
    room_authors: np.ndarray, windows: np.ndarray, authors: Authors, rng: np.random.Generator
) -> np.ndarray:
    """Semi-Markov chain: dwell times are 1 + Gamma(3), which state follows depends on the state alone."""
    current = rng.integers(0, STYLE_STATES, len(windows))

    def draw() -> tuple[np.ndarray, ...]:
        nonlocal current
        state = current
        mean = authors.dwell_windows[room_authors, state]
        cumulative = authors.transition[room_authors, state]
        current = np.minimum((rng.random((len(windows), 1)) > cumulative).sum(axis=1), STYLE_STATES - 1)
        return 1 + rng.gamma(3.0, mean / 3.0).astype(np.int64), state

    lengths, (states,) = fill(windows, draw)
    return np.repeat(states.ravel(), lengths.ravel()).astype(np.int8)


def _draw_highlights(
    windows: np.ndarray, mean_size: np.ndarray, behaviour: Behaviour, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cycles of quiet, build-up, peak and decay; the quiet of a cycle begins with the lull after the last highlight."""
    rooms = len(windows)
    last_size = np.zeros(rooms)

    def length(mean: float) -> np.ndarray:
        return 1 + np.rint(rng.gamma(12.0, (mean - 1) / 12.0, rooms)).astype(np.int64)

    def draw() -> tuple[np.ndarray, ...]:
        nonlocal last_size
        quiet, build_up = length(behaviour.quiet_windows), length(behaviour.build_up_windows)
        peak, decay = length(behaviour.peak_windows), length(behaviour.decay_windows)
        size = mean_size * np.exp(rng.normal(0.0, behaviour.highlight_size_spread, rooms))
        columns = (quiet, build_up, peak, decay, size, last_size)
        last_size = size
        return (quiet + build_up + peak + decay, *columns)

    lengths, columns = fill(windows, draw)
    flat = lengths.ravel()
    quiet, build_up, peak, decay, size, before = (np.repeat(column.ravel(), flat) for column in columns)
    window = positions_within(flat)
    rise = np.clip((window - quiet + 1) / build_up, 0.0, 1.0)
    fall = np.clip((window - quiet - build_up - peak + 1) / decay, 0.0, 1.0)
    buzz = size * rise * (1.0 - fall)
    lull = behaviour.lull * before * np.exp(-window / 5.0) * (rise == 0)
    return buzz.astype(np.float32), (size * rise**3 * (1.0 - fall) - lull).astype(np.float32)


def _draw_products(
    room_authors: np.ndarray, windows: np.ndarray, catalogue: Catalogue, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    current = catalogue.first_products(room_authors, rng)

    def draw() -> tuple[np.ndarray, ...]:
        nonlocal current
        product = current
        current = catalogue.next_products(room_authors, product, rng)
        return rng.integers(*_PRODUCT_WINDOWS, len(windows)), product

    lengths, (products,) = fill(windows, draw)
    return lengths, products
