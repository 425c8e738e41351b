"""Embeddings of ids of an open set."""

import keras
from keras import ops

_MULTIPLIER = 0x2545F491


@keras.saving.register_keras_serializable(package="live_foresight")
class HashedEmbedding(keras.layers.Layer):
    """Looks up a vector for any integer id, the ids being hashed into a fixed number of bins.

    New ids need no vocabulary and no growing table; two ids share a vector with probability 1 / bins. The hash mixes
    all bits of the id (multiply and shift, with wrap-around), so that consecutive ids spread, and is part of what a
    saved model means: it doesn't change.

    The padding id gives a vector of zeros and is masked.

    Args:
        bins: Rows of the table.
        output_dim: D, width of a vector.
        padding_id: Stands where there is no id; None if each id counts.
        embeddings_initializer: Of the table, (bins, D).
        embeddings_regularizer: Of the table.

    Example:

    >>> HashedEmbedding(bins=1000, output_dim=8)(np.array([[7, 10**15, -1]])).shape
    TensorShape([1, 3, 8])
    """

    def __init__(
        self,
        bins: int,
        output_dim: int,
        padding_id: int | None = -1,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if bins < 1 or output_dim < 1:
            raise ValueError(f"bins and output_dim must be at least 1, got {bins} and {output_dim}")
        self.bins = bins
        self.output_dim = output_dim
        self.padding_id = padding_id
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.supports_masking = True

    def build(self, input_shape) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.bins, self.output_dim),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
        )

    def bin_of(self, ids):
        """The bin, 0 <= bin < bins, of each of `ids`."""
        mixed = ops.cast(ids, "int64")
        for shift in (32, 29, 32):
            mixed = ops.bitwise_xor(mixed, ops.right_shift(mixed, shift)) * _MULTIPLIER
        return ops.mod(ops.bitwise_xor(mixed, ops.right_shift(mixed, 32)), self.bins)

    def call(self, ids):
        """Maps integers of any shape to vectors of shape (*shape, D)."""
        vectors = ops.take(self.embeddings, self.bin_of(ids), axis=0)
        if self.padding_id is not None:
            vectors = vectors * ops.cast(ops.expand_dims(self.compute_mask(ids), -1), vectors.dtype)
        return vectors

    def compute_mask(self, ids, mask=None):
        return None if self.padding_id is None else ops.not_equal(ids, self.padding_id)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def compute_output_spec(self, ids):
        return keras.KerasTensor(self.compute_output_shape(ids.shape), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "bins": self.bins,
            "output_dim": self.output_dim,
            "padding_id": self.padding_id,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
        }
