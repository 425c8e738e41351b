"""Progressive layered extraction."""

import copy
from collections.abc import Sequence

import keras
from keras import ops

from keras_models.layers.grouped_dense import GroupedDense


@keras.saving.register_keras_serializable(package="live_foresight")
class ProgressiveLayeredExtraction(keras.layers.Layer):
    """Separates experts of one task from experts that all tasks share, level by level.

    At level j, task k has n experts of its own and there are s shared ones, multi-layer perceptrons all. With x_k the
    task's stream, x_0 the shared one, and experts reading the stream of those whom they belong to:

        own_k = [expert_k1(x_k) ... expert_kn(x_k)]            shared = [expert_1(x_0) ... expert_s(x_0)]
        x_k  <- softmax(W_k x_k) [own_k ; shared]
        x_0  <- softmax(W_0 x_0) [own_1 ; ... ; own_K ; shared]                  all levels but the last

    At the first level every stream is the input. One level is the paper's customized gate control (CGC); one level
    without experts of the tasks' own is a `MultiGateMixtureOfExperts`, whose place this layer can take.

    The experts' first layers run as one dense product at the first level and as one for the tasks and one for the
    shared experts at the others, all further layers batched over the experts of a level. The same goes for the gates.

    Rows don't mix: a NaN or an infinity in one example's input stays in that example's output.

    Args:
        tasks: K, the number of tasks.
        task_experts: n, experts of each task's own, a level; 0 for none.
        shared_experts: s, shared experts, a level.
        expert_units: Widths of the layers of each expert, first to last, the same at each level.
        levels: Number of levels.
        activation: Of each of the experts' layers.
        kernel_initializer: Of the experts. The default looks at the fan-in alone, which is the same in the fused form.

    Example:

    >>> extraction = ProgressiveLayeredExtraction(tasks=9, expert_units=(64, 32), levels=2)
    >>> tuple(extraction(np.random.rand(2, 100)).shape)
    (2, 9, 32)

    Reference: Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations, RecSys 2020, equations 3 to 8. Departures: each task has as many experts as the others, and each
    level as many as the others, where the paper allows any numbers. Towers are left to the caller (`GroupedDense` runs
    all of them at once).
    """

    def __init__(
        self,
        tasks: int,
        task_experts: int = 2,
        shared_experts: int = 2,
        expert_units: Sequence[int] = (64, 32),
        levels: int = 1,
        activation="relu",
        kernel_initializer="he_uniform",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if min(tasks, shared_experts, levels, *expert_units) < 1 or task_experts < 0 or not expert_units:
            raise ValueError(
                "tasks, shared_experts, levels and each of expert_units must be at least 1 and task_experts at least "
                f"0, got tasks={tasks}, shared_experts={shared_experts}, levels={levels}, "
                f"expert_units={tuple(expert_units)}, task_experts={task_experts}"
            )
        self.tasks = tasks
        self.task_experts = task_experts
        self.shared_experts = shared_experts
        self.expert_units = tuple(expert_units)
        self.levels = levels
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape) -> None:
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(f"expected inputs of shape (batch, width), got {tuple(input_shape)}")
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_shape[-1]})
        self.extractions = []
        shape = input_shape
        for i in range(self.levels):
            level = _CustomizedGateControl(self, last=i == self.levels - 1, name=f"level_{i + 1}")
            level.build(shape)
            self.extractions.append(level)
            shape = (input_shape[0], self.tasks + 1, self.expert_units[-1])

    def call(self, inputs):
        """Maps (B, F) to (B, K, U), U the last of `expert_units`."""
        outputs = inputs
        for level in self.extractions:
            outputs = level(outputs)
        return outputs

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.tasks, self.expert_units[-1])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "tasks": self.tasks,
            "task_experts": self.task_experts,
            "shared_experts": self.shared_experts,
            "expert_units": self.expert_units,
            "levels": self.levels,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


class _CustomizedGateControl(keras.layers.Layer):
    """One level: from (B, F), or (B, K + 1, F) with the shared stream last, to (B, K + 1, U), or (B, K, U) if last."""

    def __init__(self, whole: ProgressiveLayeredExtraction, last: bool, name: str) -> None:
        super().__init__(dtype=whole.dtype_policy, name=name)
        self.tasks, self.task_experts, self.shared_experts = whole.tasks, whole.task_experts, whole.shared_experts
        self.own_experts = whole.tasks * whole.task_experts
        self.experts = self.own_experts + whole.shared_experts
        self.expert_units = whole.expert_units
        self.last = last
        self.activation = whole.activation
        self.kernel_initializer = whole.kernel_initializer

    def build(self, input_shape) -> None:
        batch, *streams, width = input_shape
        shared = (batch, width)
        tasks = (batch, self.tasks, width)
        first, *rest = self.expert_units
        gate = self.task_experts + self.shared_experts
        shared_gate = 0 if self.last else self.experts
        if not streams:
            self.first_expert_layer = self._child(
                keras.layers.Dense, shared, self.experts * first, "first_expert_layer"
            )
            self.gates = self._gates(keras.layers.Dense, shared, self.tasks * gate + shared_gate, "gates")
        else:
            if self.task_experts:
                units = self.task_experts * first
                self.first_task_layer = self._child(GroupedDense, tasks, units, "first_task_layer")
            units = self.shared_experts * first
            self.first_shared_layer = self._child(keras.layers.Dense, shared, units, "first_shared_layer")
            self.task_gates = self._gates(GroupedDense, tasks, gate, "task_gates")
            if not self.last:
                self.shared_gate = self._gates(keras.layers.Dense, shared, shared_gate, "shared_gate")
        self.expert_layers = []
        width = first
        for i, units in enumerate(rest):
            shape = (batch, self.experts, width)
            self.expert_layers.append(self._child(GroupedDense, shape, units, f"expert_layer_{i + 1}"))
            width = units

    def _child(self, kind, shape, units, name, **arguments):
        arguments = {
            "activation": self.activation,
            "kernel_initializer": copy.copy(self.kernel_initializer),
            **arguments,
        }
        layer = kind(units, dtype=self.dtype_policy, name=name, **arguments)
        layer.build(shape)
        return layer

    def _gates(self, kind, shape, units, name):
        return self._child(
            kind, shape, units, name, activation=None, kernel_initializer="glorot_uniform", use_bias=False
        )

    def call(self, inputs):
        experts, task_gates, shared_gate = self._from_one(inputs) if len(inputs.shape) == 2 else self._from(inputs)
        for layer in self.expert_layers:
            experts = layer(experts)
        own, gates = self.task_experts, ops.softmax(task_gates, axis=-1)
        outputs = ops.matmul(gates[:, :, own:], experts[:, self.own_experts :])
        if own:
            # Not one product with zeros for the other tasks' experts: 0 x infinity would leak from task to task.
            shape = (-1, self.tasks, own, self.expert_units[-1])
            own_experts = ops.reshape(experts[:, : self.own_experts], shape)
            outputs += ops.sum(ops.expand_dims(gates[:, :, :own], -1) * own_experts, axis=2)
        if self.last:
            return outputs
        shared = ops.matmul(ops.expand_dims(ops.softmax(shared_gate, axis=-1), 1), experts)
        return ops.concatenate([outputs, shared], axis=1)

    def _from_one(self, inputs):
        """The experts' first layer (B, E, U) and the gates' logits, (B, K, n + s) and (B, E), at the first level."""
        experts = ops.reshape(self.first_expert_layer(inputs), (-1, self.experts, self.expert_units[0]))
        gates = self.gates(inputs)
        gate = self.task_experts + self.shared_experts
        return (
            experts,
            ops.reshape(gates[:, : self.tasks * gate], (-1, self.tasks, gate)),
            gates[:, self.tasks * gate :],
        )

    def _from(self, inputs):
        """The same at the other levels."""
        tasks, shared = inputs[:, :-1], inputs[:, -1]
        first = self.expert_units[0]
        experts = ops.reshape(self.first_shared_layer(shared), (-1, self.shared_experts, first))
        if self.task_experts:
            own = ops.reshape(self.first_task_layer(tasks), (-1, self.own_experts, first))
            experts = ops.concatenate([own, experts], axis=1)
        return experts, self.task_gates(tasks), None if self.last else self.shared_gate(shared)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.tasks + (not self.last), self.expert_units[-1])
