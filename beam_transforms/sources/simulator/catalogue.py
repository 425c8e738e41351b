"""The products that shopping rooms sell, in three levels of categories."""

import numpy as np

from beam_transforms.sources.simulator.content_states import LATENT, unit_rows

CATEGORIES_1, CATEGORIES_2, CATEGORIES_3 = 50, 1_000, 5_000
PRODUCTS_PER_CATEGORY = 8
_LEVEL_2_PER_1 = CATEGORIES_2 // CATEGORIES_1
_LEVEL_3_PER_2 = CATEGORIES_3 // CATEGORIES_2

_SAME, _SUCCESSOR, _RELATED = 0.25, 0.35, 0.25  # what follows a product; the rest is something else by the author


class Catalogue:
    """Products are numbered so that `product // PRODUCTS_PER_CATEGORY` is the level-3 category.

    Attributes:
        price: (products,) float64, two decimals.
        taste: (CATEGORIES_1, LATENT) float32 unit vectors: who likes what.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        products = CATEGORIES_3 * PRODUCTS_PER_CATEGORY
        base = rng.normal(3.0, 0.5, CATEGORIES_3)
        noise = rng.normal(0.0, 0.25, products)
        self.price = np.round(np.exp(np.repeat(base, PRODUCTS_PER_CATEGORY) + noise), 2)
        self.taste = unit_rows(rng.standard_normal((CATEGORIES_1, LATENT)))
        inside = np.arange(CATEGORIES_2) % _LEVEL_2_PER_1
        steps = rng.integers(1, _LEVEL_2_PER_1, CATEGORIES_2)
        self._related = (np.arange(CATEGORIES_2) // _LEVEL_2_PER_1) * _LEVEL_2_PER_1 + (inside + steps) % _LEVEL_2_PER_1

    @staticmethod
    def categories(products: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Categories of level 1, 2 and 3 of `products` (any shape)."""
        level_3 = products // PRODUCTS_PER_CATEGORY
        level_2 = level_3 // _LEVEL_3_PER_2
        return level_2 // _LEVEL_2_PER_1, level_2, level_3

    def first_products(self, authors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What rooms of `authors` (B,) sell first: one of the author's own three categories of level 2."""
        own = (authors * 7_919 + 104_729 * rng.integers(0, 3, len(authors))) % CATEGORIES_2
        return self._any_of(own * _LEVEL_3_PER_2 + rng.integers(0, _LEVEL_3_PER_2, len(authors)), rng)

    def next_products(self, authors: np.ndarray, products: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What is sold after `products` (B,): the same category, its successor, a related one, or something else."""
        _, level_2, level_3 = self.categories(products)
        successor = level_2 * _LEVEL_3_PER_2 + (level_3 + 1) % _LEVEL_3_PER_2
        related = self._related[level_2] * _LEVEL_3_PER_2
        draw = rng.random(len(products))
        chosen = np.select(
            [draw < _SAME, draw < _SAME + _SUCCESSOR, draw < _SAME + _SUCCESSOR + _RELATED],
            [level_3, successor, related],
            self.first_products(authors, rng) // PRODUCTS_PER_CATEGORY,
        )
        return self._any_of(chosen, rng)

    @staticmethod
    def _any_of(level_3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return level_3 * PRODUCTS_PER_CATEGORY + rng.integers(0, PRODUCTS_PER_CATEGORY, len(level_3))
