"""Normalisation by running statistics, the same in training and in serving."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="live_foresight")
class RunningNormalization(keras.layers.Layer):
    """Compresses heavy-tailed features and standardises them by statistics of all that was seen so far.

        compressed = sign(x) log(1 + |x|)
        output = clip((compressed - mean) / sqrt(variance + epsilon), -limit, limit)

    Mean and variance are averages over the batches trained on: plain ones at first, exponential with `momentum` once
    there were more than 1 / (1 - momentum) batches. Unlike BatchNormalization the same statistics serve training and
    inference, so that a model is right after ten batches as after ten thousand, a batch of one is no special case, and
    a warm start goes on from what it knows. Statistics stay in float32 under any dtype policy.

    Rows that the mask leaves out and numbers that aren't finite take no part in the statistics; a batch without any
    number for a feature, an empty one too, leaves that feature's statistics as they are. NaN comes out as 0, as if it
    were the mean, and infinities as plus and minus `limit`: outputs are always finite.

    Args:
        momentum: Share of the past in the exponential average.
        epsilon: Added to the variance, in units of the compressed feature; keeps rare features from blowing up.
        limit: Outputs are clipped to plus and minus this.

    Example:

    >>> layer = RunningNormalization()
    >>> normalized = layer(np.random.poisson(3, (256, 10)), training=True)
    >>> tuple(normalized.shape), bool(ops.max(ops.abs(ops.mean(normalized, axis=0))) < 1e-5)
    ((256, 10), True)
    """

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-2, limit: float = 8.0, **kwargs) -> None:
        super().__init__(autocast=False, **kwargs)
        if not 0 < momentum < 1 or epsilon <= 0 or limit <= 0:
            raise ValueError(
                "momentum must lie between 0 and 1, epsilon and limit above 0, "
                f"got momentum={momentum}, epsilon={epsilon}, limit={limit}"
            )
        self.momentum = momentum
        self.epsilon = epsilon
        self.limit = limit
        self.supports_masking = True

    def build(self, input_shape) -> None:
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(f"expected inputs of shape (batch, ..., features), got {tuple(input_shape)}")

        def add(name, initializer):
            return self.add_weight(
                name=name,
                shape=(input_shape[-1],),
                initializer=initializer,
                dtype="float32",
                trainable=False,
                autocast=False,
                aggregation="mean",
            )

        self.mean = add("mean", "zeros")
        self.variance = add("variance", "ones")
        self.batches = add("batches", "zeros")

    def call(self, inputs, mask=None, training=None):
        """Normalises; in training, takes the inputs into the statistics first.

        Args:
            inputs: (B, ..., F) features.
            mask: (B, ...), true or 1 where a row counts in the statistics; None if all do.

        Returns:
            (B, ..., F) in the compute dtype, rows that the mask leaves out being normalised like the others.

        Raises:
            ValueError: If the features aren't those that the layer was built for, or the mask doesn't fit.
        """
        features = self.mean.shape[0]
        if len(inputs.shape) < 2 or inputs.shape[-1] != features:
            raise ValueError(f"expected inputs of shape (batch, ..., {features}), got {tuple(inputs.shape)}")
        if mask is not None and len(mask.shape) != len(inputs.shape) - 1:
            raise ValueError(
                f"expected a mask of the inputs' shape {tuple(inputs.shape)} without the last axis, "
                f"got {tuple(mask.shape)}"
            )
        inputs = ops.cast(inputs, "float32")
        x = ops.nan_to_num(inputs, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
        x = ops.sign(x) * ops.log1p(ops.abs(x))
        if training:
            counts = ops.cast(ops.isfinite(inputs), "float32")
            if mask is not None:
                counts = counts * ops.cast(ops.expand_dims(mask, -1), "float32")
            self._update(x, counts)
        x = (x - self.mean) * ops.rsqrt(self.variance + self.epsilon)
        x = ops.where(ops.isnan(inputs), 0.0, ops.clip(x, -self.limit, self.limit))
        return ops.cast(x, self.compute_dtype)

    def _update(self, x, counts) -> None:
        """Takes in `x`, each number as often as `counts`, 0 or 1, says."""
        axes = tuple(range(len(x.shape) - 1))
        rows = ops.sum(counts, axis=axes)
        any_rows = ops.cast(rows > 0, "float32")
        weights = counts / ops.maximum(rows, 1.0)
        batch_mean = ops.sum(weights * x, axis=axes)
        batch_variance = ops.sum(weights * ops.square(x - batch_mean), axis=axes)
        self.batches.assign(self.batches + any_rows)
        share = any_rows * ops.maximum(1.0 / ops.maximum(self.batches, 1.0), 1.0 - self.momentum)
        shift = batch_mean - self.mean
        # The variance of a mixture of two groups, one with `share` of the rows.
        self.variance.assign((1 - share) * self.variance + share * batch_variance + share * (1 - share) * shift**2)
        self.mean.assign(self.mean + share * shift)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "limit": self.limit,
        }


_LARGEST = 3e38
