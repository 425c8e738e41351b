"""Multi-gate mixture of experts."""

import copy
from collections.abc import Sequence

import keras
from keras import ops

from keras_models.layers.grouped_dense import GroupedDense


@keras.saving.register_keras_serializable(package="live_foresight")
class MultiGateMixtureOfExperts(keras.layers.Layer):
    """Shares experts between tasks, each task mixing them by a gate of its own.

        f_k(x) = sum_i softmax(W_k x)_i expert_i(x)

    The experts are multi-layer perceptrons. Their first layers run as one dense product, the others batched over the
    experts. Towers are left to the caller (`GroupedDense` runs all of them at once).

    Rows don't mix: a NaN or an infinity in one example's input stays in that example's output.

    Args:
        tasks: K, the number of gates.
        experts: E, the number of experts. One alone is a bottom that all tasks share, and needs no gates.
        expert_units: Widths of the layers of each expert, first to last.
        activation: Of each of the experts' layers.
        kernel_initializer: Of the experts. The default looks at the fan-in alone, which is the same in the fused form.

    Example:

    >>> mixture = MultiGateMixtureOfExperts(tasks=9, experts=4, expert_units=(64, 32))
    >>> tuple(mixture(np.random.rand(2, 100)).shape)
    (2, 9, 32)

    Reference: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts,
    KDD 2018, equations 6 and 7. The gates have no bias, as there.
    """

    def __init__(
        self,
        tasks: int,
        experts: int = 8,
        expert_units: Sequence[int] = (64, 32),
        activation="relu",
        kernel_initializer="he_uniform",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if min(tasks, experts, *expert_units) < 1 or not expert_units:
            raise ValueError(
                "tasks, experts and each of expert_units must be at least 1, "
                f"got tasks={tasks}, experts={experts}, expert_units={tuple(expert_units)}"
            )
        self.tasks = tasks
        self.experts = experts
        self.expert_units = tuple(expert_units)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape) -> None:
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(f"expected inputs of shape (batch, width), got {tuple(input_shape)}")
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_shape[-1]})
        first, *rest = self.expert_units
        self.first_expert_layer = keras.layers.Dense(
            self.experts * first,
            activation=self.activation,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="first_expert_layer",
        )
        self.first_expert_layer.build(input_shape)
        self.expert_layers = []
        width = first
        for i, units in enumerate(rest):
            layer = GroupedDense(
                units,
                activation=self.activation,
                kernel_initializer=copy.copy(self.kernel_initializer),
                dtype=self.dtype_policy,
                name=f"expert_layer_{i + 1}",
            )
            layer.build((input_shape[0], self.experts, width))
            self.expert_layers.append(layer)
            width = units
        if self.experts > 1:
            self.gates = keras.layers.Dense(
                self.tasks * self.experts, use_bias=False, dtype=self.dtype_policy, name="gates"
            )
            self.gates.build(input_shape)

    def call(self, inputs):
        """Maps (B, F) to (B, K, U), U the last of `expert_units`."""
        outputs = ops.reshape(self.first_expert_layer(inputs), (-1, self.experts, self.expert_units[0]))
        for layer in self.expert_layers:
            outputs = layer(outputs)
        if self.experts == 1:
            return ops.repeat(outputs, self.tasks, axis=1)
        gates = ops.softmax(ops.reshape(self.gates(inputs), (-1, self.tasks, self.experts)), axis=-1)
        return ops.matmul(gates, outputs)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.tasks, self.expert_units[-1])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "tasks": self.tasks,
            "experts": self.experts,
            "expert_units": self.expert_units,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
