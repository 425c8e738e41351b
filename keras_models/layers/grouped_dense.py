"""A dense layer of its own for each of several groups."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="live_foresight")
class GroupedDense(keras.layers.Layer):
    """Applies G dense layers to the G rows of each example, as one batched product.

        output[b, g] = activation(input[b, g] @ kernel[g] + bias[g])

    Each kernel is drawn as `kernel_initializer` would draw it for (I, G x O): the fan-in, which the default looks at,
    is that of one dense layer.

    Args:
        units: O, the width of each group's output.
        activation: Name or callable; None for linear.
        kernel_initializer: For the kernels, (G, I, O).
        bias_initializer: For the biases, (G, O).
        use_bias: Whether there are biases.

    Example:

    >>> tuple(GroupedDense(32, activation="relu")(np.random.rand(2, 9, 64)).shape)
    (2, 9, 32)
    """

    def __init__(
        self,
        units: int,
        activation=None,
        kernel_initializer="he_uniform",
        bias_initializer="zeros",
        use_bias: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units must be at least 1, got {units}")
        self.units = units
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.use_bias = use_bias

    def build(self, input_shape) -> None:
        if len(input_shape) != 3 or None in input_shape[1:]:
            raise ValueError(f"expected inputs of shape (batch, groups, width), got {tuple(input_shape)}")
        _, groups, width = input_shape
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={1: groups, 2: width})
        self.kernel = self.add_weight(
            name="kernel", shape=(groups, width, self.units), initializer=self._initial_kernel
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(groups, self.units), initializer=self.bias_initializer)

    def _initial_kernel(self, shape, dtype=None):
        groups, width, units = shape
        flat = self.kernel_initializer((width, groups * units), dtype=dtype)
        return ops.transpose(ops.reshape(flat, (width, groups, units)), (1, 0, 2))

    def call(self, inputs):
        """Maps (B, G, I) to (B, G, O)."""
        outputs = ops.matmul(ops.transpose(inputs, (1, 0, 2)), self.kernel)
        if self.bias is not None:
            outputs = outputs + ops.expand_dims(self.bias, 1)
        return ops.transpose(self.activation(outputs), (1, 0, 2))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "use_bias": self.use_bias,
        }
