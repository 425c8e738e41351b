"""Embeddings of how long a run lasted."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="live_foresight")
class RunLengthEmbedding(keras.layers.Layer):
    """Looks up a vector for the length of a run; runs longer than a limit share the limit's vector.

        output = Embed(min(W, Wmax)),    W >= 1

    A length of 0, or less, or NaN is padding: it gives a vector of zeros and is masked.

    Args:
        max_run_length: Wmax, rows of the table.
        output_dim: D, width of a vector.
        embeddings_initializer: Of the table, (Wmax, D); row w - 1 belongs to length w.

    Example:

    >>> tuple(RunLengthEmbedding(max_run_length=60, output_dim=8)(np.array([[0, 1, 5, 1000]])).shape)
    (1, 4, 8)

    Reference: Foresight Prediction (WSDM 2026), section 3.1.2.
    """

    def __init__(self, max_run_length: int, output_dim: int, embeddings_initializer="uniform", **kwargs) -> None:
        super().__init__(**kwargs)
        if max_run_length < 1 or output_dim < 1:
            raise ValueError(f"max_run_length and output_dim must be at least 1, got {max_run_length} and {output_dim}")
        self.max_run_length = max_run_length
        self.output_dim = output_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_masking = True

    def build(self, input_shape) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_run_length, self.output_dim),
            initializer=self.embeddings_initializer,
        )

    def call(self, run_lengths):
        """Maps integers of any shape to vectors of shape (*shape, D)."""
        mask = self.compute_mask(run_lengths)
        lengths = ops.where(mask, run_lengths, ops.ones_like(run_lengths))  # the one choice that NaN doesn't survive
        rows = ops.cast(ops.clip(lengths, 1, self.max_run_length), "int32") - 1
        vectors = ops.take(self.embeddings, rows, axis=0)
        return vectors * ops.cast(ops.expand_dims(mask, -1), vectors.dtype)

    def compute_mask(self, run_lengths, mask=None):
        return ops.greater(run_lengths, 0)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def compute_output_spec(self, run_lengths):
        return keras.KerasTensor(self.compute_output_shape(run_lengths.shape), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "max_run_length": self.max_run_length,
            "output_dim": self.output_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
