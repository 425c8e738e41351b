"""Learned soft buckets of numeric features."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="live_foresight")
class SoftBuckets(keras.layers.Layer):
    """Gives each feature a bank of smooth steps beside its own value, as a tree would split it.

        output = [x ; tanh(slope[f, i] x[f] + offset[f, i])  for each feature f and step i]

    The steps start evenly spread over `span` standard deviations on either side of 0, for inputs that are standardised,
    and are learned. A multi-layer perceptron behind them need not build every threshold out of its first layer.

    NaN counts as 0, the mean, and infinities as plus and minus ten times the span: outputs are always finite.

    Args:
        steps: Steps a feature.
        span: Distance of the outermost steps from 0 at start.

    Example:

    >>> tuple(SoftBuckets(steps=8)(np.random.randn(2, 5)).shape)
    (2, 45)
    """

    def __init__(self, steps: int = 8, span: float = 1.8, **kwargs) -> None:
        super().__init__(**kwargs)
        if steps < 1 or span <= 0:
            raise ValueError(f"steps must be at least 1 and span above 0, got steps={steps}, span={span}")
        self.steps = steps
        self.span = span
        self.supports_masking = True

    def build(self, input_shape) -> None:
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(f"expected inputs of shape (batch, features), got {tuple(input_shape)}")
        shape = (input_shape[-1], self.steps)
        self.slope = self.add_weight(name="slope", shape=shape, initializer=keras.initializers.Constant(_SLOPE))
        self.offset = self.add_weight(name="offset", shape=shape, initializer=self._initial_offset)

    def _initial_offset(self, shape, dtype=None):
        centres = ops.linspace(-self.span, self.span, self.steps, dtype=dtype)
        return ops.tile(ops.expand_dims(-_SLOPE * centres, 0), (shape[0], 1))

    def call(self, inputs):
        """Maps (B, F) to (B, F x (1 + steps)).

        Raises:
            ValueError: If the features aren't those that the layer was built for.
        """
        features = self.slope.shape[0]
        if len(inputs.shape) != 2 or inputs.shape[-1] != features:
            raise ValueError(f"expected inputs of shape (batch, {features}), got {tuple(inputs.shape)}")
        largest = 10 * self.span
        inputs = ops.nan_to_num(inputs, nan=0.0, posinf=largest, neginf=-largest)
        steps = ops.tanh(ops.expand_dims(inputs, -1) * self.slope + self.offset)
        return ops.concatenate([inputs, ops.reshape(steps, (-1, features * self.steps))], axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1] * (1 + self.steps))

    def get_config(self) -> dict:
        return {**super().get_config(), "steps": self.steps, "span": self.span}


_SLOPE = 2.0
