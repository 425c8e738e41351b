"""Second-order factorization machine."""

import keras
from keras import ops

from keras_models.layers._shapes import check_mask


@keras.saving.register_keras_serializable(package="live_foresight")
class FactorizationMachine(keras.layers.Layer):
    """Sums the dot products of all pairs of fields, in time linear in the number of fields.

        output = sum_{i < j} <v_i, v_j> = 1/2 sum_d ((sum_i v_id)^2 - sum_i v_id^2)

    A field's vector is the embedding of what the field holds (times its value, if it has one). Only the pairs are
    summed, and the layer has no weights: the bias and the first-order terms of a whole factorization machine are
    embeddings of width 1, which the caller adds. A field that holds nothing is masked, or given as zeros: either way
    it takes part in no pair.

    Whatever the policy, sums are in float32 (float64 under that policy); the rounding error is some 1e-7 of
    sum_i |v_i|^2. Under float16 a result beyond 65,504 becomes infinite. A number that isn't finite makes its own
    example's output not finite, and no other's; in a masked field it does nothing.

    Example:

    >>> fields = np.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])  # 1*3 + 2*4 + 1*5 + 2*6 + 3*5 + 4*6
    >>> float(FactorizationMachine()(fields)[0, 0])
    67.0

    Reference: Rendle, Factorization Machines, ICDM 2010, equation 5 and lemma 3.1. (keras-rs has no such layer; its
    `DotInteraction` gives each pair by itself, in time quadratic in the number of fields.)
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True

    def build(self, input_shape) -> None:
        if len(input_shape) != 3:
            raise ValueError(f"expected inputs of shape (batch, fields, width), got {tuple(input_shape)}")

    def call(self, inputs, mask=None):
        """Sums over pairs.

        Args:
            inputs: (B, F, D), a vector for each field.
            mask: (B, F), true or 1 where a field holds something; None if all do.

        Returns:
            (B, 1); zeros where fewer than two fields hold something.
        """
        vectors = ops.cast(inputs, "float64" if self.compute_dtype == "float64" else "float32")
        check_mask(mask, inputs.shape[:-1])
        if mask is not None:
            # A choice, not a product: zero times NaN is NaN.
            vectors = ops.where(ops.expand_dims(ops.cast(mask, "bool"), -1), vectors, ops.zeros_like(vectors))
        pairs = ops.square(ops.sum(vectors, axis=1)) - ops.sum(ops.square(vectors), axis=1)
        return ops.cast(0.5 * ops.sum(pairs, axis=-1, keepdims=True), self.compute_dtype)

    def compute_mask(self, inputs, mask=None):
        return None  # the axis that the mask was for is gone

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1)
