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

    Args:
        momentum: Share of the past in the exponential average.
        epsilon: Added to the variance, in units of the compressed feature; keeps rare features from blowing up.
        limit: Outputs are clipped to plus and minus this.

    Example:

    >>> layer = RunningNormalization()
    >>> layer(np.random.poisson(3, (256, 10)), training=True).shape
    TensorShape([256, 10])
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
        def add(name, shape, initializer):
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                dtype="float32",
                trainable=False,
                autocast=False,
                aggregation="mean",
            )

        self.mean = add("mean", (input_shape[-1],), "zeros")
        self.variance = add("variance", (input_shape[-1],), "ones")
        self.batches = add("batches", (), "zeros")

    def call(self, inputs, training=None):
        """Maps (B, F) features to (B, F) in the compute dtype; in training, takes them into the statistics first."""
        x = ops.cast(inputs, "float32")
        x = ops.sign(x) * ops.log1p(ops.abs(x))
        if training:
            self._update(x)
        x = (x - self.mean) * ops.rsqrt(self.variance + self.epsilon)
        return ops.cast(ops.clip(x, -self.limit, self.limit), self.compute_dtype)

    def _update(self, x) -> None:
        self.batches.assign(self.batches + 1.0)
        share = ops.maximum(1.0 / self.batches, 1.0 - self.momentum)
        batch_mean = ops.mean(x, axis=0)
        batch_variance = ops.mean(ops.square(x - batch_mean), axis=0)
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
