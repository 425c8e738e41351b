"""What a live room can show: content states, and the embedding that a segment of one emits."""

import numpy as np

LATENT = 16
STATES = 64
EMBEDDING = 128
ROOM_EMBEDDING = 64
MATCH_SCALE = 4.0  # a match of two independent unit vectors of 16 entries then has a standard deviation of 1


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """`vectors` (..., L) scaled to length 1 in their last dimension, float32."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class ContentStates:
    """The content states of the platform, such as "ballad", "duel", "unboxing".

    Attributes:
        centres: (STATES, LATENT) float32 unit vectors; a user's taste lives in the same space.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.centres = unit_rows(rng.standard_normal((STATES, LATENT)))
        axes, _ = np.linalg.qr(rng.standard_normal((EMBEDDING, LATENT + 1)))
        self._axes = np.ascontiguousarray(axes[:, :LATENT].T, np.float32)
        self._heat_axis = axes[:, LATENT].astype(np.float32)
        room_axes, _ = np.linalg.qr(rng.standard_normal((ROOM_EMBEDDING, LATENT)))
        self._room_axes = np.ascontiguousarray(room_axes.T, np.float32)

    def segment_embeddings(
        self, states: np.ndarray, styles: np.ndarray, heat: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Embeddings (B, 128) of segments from their state (B,), author's style (B, LATENT) and heat (B,).

        The state's centre leads, the author's style is a third of its size, heat has an axis of its own, and noise has
        about two thirds of the centre's length, spread over all directions.
        """
        latent = self.centres[states] + np.float32(0.35) * styles
        embeddings = rng.standard_normal((len(states), EMBEDDING), dtype=np.float32)
        embeddings *= np.float32(0.06)
        embeddings += np.einsum("bl,le->be", latent, self._axes)
        embeddings += (np.float32(0.3) * heat.astype(np.float32))[:, None] * self._heat_axis
        return embeddings

    def room_embeddings(self, styles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Embeddings (B, 64) of rooms from their authors' style (B, LATENT): known before a room opens."""
        noise = rng.standard_normal((len(styles), ROOM_EMBEDDING), dtype=np.float32)
        return np.einsum("bl,le->be", styles, self._room_axes) + np.float32(0.06) * noise
