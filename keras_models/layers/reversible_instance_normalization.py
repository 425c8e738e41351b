"""Reversible instance normalisation."""

import keras
from keras import ops

from keras_models.layers._shapes import check_mask


@keras.saving.register_keras_serializable(package="live_foresight")
class ReversibleInstanceNormalization(keras.layers.Layer):
    """Normalises each series over its own time steps, and puts outputs back on its scale.

    For example b and metric n, over the valid steps t:

        normalized[b, t, n] = (x[b, t, n] - mean[b, n]) / deviation[b, n] * scale[n] + offset[n]
        deviation[b, n] = sqrt(biased variance[b, n] + epsilon)

    `inverse` undoes both steps exactly. Mean and deviation carry no gradient, as in the authors' code. Unlike that
    code, the layer keeps no state between the two calls: the statistics are returned, and handed to `inverse`. Both
    directions run in float32 under any dtype policy, because squared counts overflow float16; only `normalized` is
    cast to the compute dtype.

    Padded steps take no part in the statistics and are 0 in the output. So do values that are not numbers, infinite or
    beyond 1e17 in size (whose squares no float32 sum holds): such a value counts as a missing step of its metric. A
    series with no valid step has mean 0, and one with fewer than two, or a constant one, has variance 0: all outputs
    and gradients are finite.

    Args:
        epsilon: Added to the variance.
        affine: Whether `scale` (1 at start) and `offset` (0 at start) are learned, one of each a metric.

    Example:

    >>> layer = ReversibleInstanceNormalization()
    >>> normalized, mean, deviation = layer(np.random.rand(2, 40, 12))
    >>> restored = layer.inverse(normalized, mean, deviation)

    Reference: Kim et al., Reversible Instance Normalization for Accurate Time-Series Forecasting against
    Distribution Shift, ICLR 2022; LiveForesighter, equations 2 and 3.
    """

    def __init__(self, epsilon: float = 1e-5, affine: bool = True, **kwargs) -> None:
        super().__init__(autocast=False, **kwargs)
        if epsilon <= 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.epsilon = epsilon
        self.affine = affine
        self.supports_masking = True

    def build(self, input_shape) -> None:
        if len(input_shape) != 3 or (self.affine and input_shape[-1] is None):
            raise ValueError(f"expected inputs of shape (batch, steps, metrics), got {tuple(input_shape)}")
        self.metrics_count = input_shape[-1] if self.affine else None
        if self.affine:
            shape = (input_shape[-1],)
            self.scale = self.add_weight(name="scale", shape=shape, initializer="ones", autocast=False)
            self.offset = self.add_weight(name="offset", shape=shape, initializer="zeros", autocast=False)

    def call(self, inputs, mask=None):
        """Normalises.

        Args:
            inputs: (B, T, N) series.
            mask: (B, T) or (B, T, N), true or 1 where a step is valid; None if all are.

        Returns:
            normalized (B, T, N) in the compute dtype, mean (B, 1, N) and deviation (B, 1, N) in float32.

        Raises:
            ValueError: the rank or the number of metrics isn't that of `build`.
        """
        self._check("inputs", inputs.shape)
        inputs = ops.cast(inputs, "float32")
        valid = representable(inputs)
        if mask is not None:
            check_mask(mask, inputs.shape[: max(2, len(mask.shape))])
            mask = ops.cast(mask, "bool")
            valid = ops.logical_and(valid, mask if len(mask.shape) == 3 else ops.expand_dims(mask, -1))
        x = ops.where(valid, inputs, ops.zeros_like(inputs))
        valid = ops.cast(valid, "float32")
        count = ops.maximum(ops.sum(valid, axis=1, keepdims=True), 1.0)
        mean = ops.stop_gradient(ops.sum(x, axis=1, keepdims=True) / count)
        centered = (x - mean) * valid
        variance = ops.sum(ops.square(centered), axis=1, keepdims=True) / count
        deviation = ops.stop_gradient(ops.sqrt(variance + self.epsilon))
        normalized = centered / deviation
        if self.affine:
            normalized = normalized * self.scale + self.offset * valid
        return ops.cast(normalized, self.compute_dtype), mean, deviation

    def inverse(self, outputs, mean, deviation):
        """Puts `outputs` (B, any number of steps, N) on the scale of the series that `call` saw; float32."""
        self._check("outputs", outputs.shape)
        x = ops.cast(outputs, "float32")
        if self.affine:
            # As the authors do, so that a scale that has come to 0 gives a number.
            x = (x - self.offset) / (self.scale + self.epsilon**2)
        return x * deviation + mean

    def _check(self, name: str, shape) -> None:
        if len(shape) != 3 or (self.metrics_count is not None and shape[-1] not in (None, self.metrics_count)):
            metrics = "metrics" if self.metrics_count is None else f"{self.metrics_count} metrics"
            raise ValueError(f"{name} must have shape (batch, steps, {metrics}), got {tuple(shape)}")

    def compute_mask(self, inputs, mask=None):
        if mask is not None and len(mask.shape) == 3:
            mask = ops.any(ops.cast(mask, "bool"), axis=-1)
        return mask, None, None

    def compute_output_shape(self, input_shape):
        batch, _, metrics = input_shape
        return tuple(input_shape), (batch, 1, metrics), (batch, 1, metrics)

    def get_config(self) -> dict:
        return {**super().get_config(), "epsilon": self.epsilon, "affine": self.affine}


def representable(values):
    """Where `values` are numbers of at most 1e17 in size: false for NaN, infinities and what overflows when squared."""
    return ops.abs(values) <= 1e17
