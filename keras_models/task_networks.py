"""From a ranker's features to one logit a task."""

import keras
from keras import ops

from keras_models.layers.factorization_machine import FactorizationMachine
from keras_models.layers.grouped_dense import GroupedDense
from keras_models.layers.multi_gate_mixture_of_experts import MultiGateMixtureOfExperts
from keras_models.layers.progressive_layered_extraction import ProgressiveLayeredExtraction
from keras_models.ranker_config import RankerConfig


@keras.saving.register_keras_serializable(package="live_foresight")
class TaskNetworks(keras.layers.Layer):
    """The part of a ranker behind its features, in one of `ARCHITECTURES`, x the features, v_i the vectors of fields:

        mmoe:           logit_k = tower_k(sum_i softmax(W_k x)_i expert_i(x))
        ple:            logit_k = tower_k(progressive layered extraction of x for task k)
        shared_bottom:  logit_k = tower_k(bottom(x))
        din:            logit_k = tower_k(bottom_k(x))       nothing behind the features is shared
        fm:             logit_k = b_k + <w_k, x> + sum_{i<j} <s_k * v_i, s_k * v_j>

    Bottoms are networks of an expert's widths; `shared_bottom` is the mixture of one expert. The factorisation machine
    has one set of vectors for all tasks; each task scales their entries by its own s_k, 1 at start.

    Args:
        config: A `RankerConfig`, or its `to_dict()`.

    Reference: Foresight Prediction (WSDM 2026), equation 7; Rendle, Factorization Machines, ICDM 2010, equation 1.
    """

    def __init__(self, config: RankerConfig | dict, **kwargs) -> None:
        super().__init__(**kwargs)
        self.config = config if isinstance(config, RankerConfig) else RankerConfig.from_dict(config)

    def build(self, features_shape, fields_shape) -> None:
        config, policy = self.config, self.dtype_policy
        tasks = len(config.tasks)
        initial_logit = keras.initializers.Constant(config.initial_logit)
        if config.architecture == "fm":
            self.linear = keras.layers.Dense(tasks, bias_initializer=initial_logit, dtype=policy, name="linear")
            self.linear.build(features_shape)
            self.scale = self.add_weight(name="scale", shape=(tasks, 1, fields_shape[-1]), initializer="ones")
            self.interactions = FactorizationMachine(dtype=policy, name="interactions")
            self.interactions.build((None, *fields_shape[1:]))
            return
        self.mixture = self._mixture()
        self.mixture.build(features_shape)
        mixed = (features_shape[0], tasks, config.expert_units[-1])
        self.dropout = keras.layers.Dropout(config.dropout, dtype=policy, name="dropout")
        self.towers = GroupedDense(config.tower_units, activation="relu", dtype=policy, name="towers")
        self.towers.build(mixed)
        self.logits = GroupedDense(
            1, kernel_initializer="lecun_uniform", bias_initializer=initial_logit, dtype=policy, name="logits"
        )
        self.logits.build((*mixed[:-1], config.tower_units))

    def _mixture(self) -> keras.layers.Layer:
        config, tasks = self.config, len(self.config.tasks)
        keywords = {"expert_units": config.expert_units, "dtype": self.dtype_policy, "name": "mixture"}
        if config.architecture == "ple":
            return ProgressiveLayeredExtraction(
                tasks, task_experts=config.experts, shared_experts=config.experts, **keywords
            )
        if config.architecture == "din":
            return _separate_bottoms(tasks, **keywords)
        experts = 1 if config.architecture == "shared_bottom" else config.experts
        return MultiGateMixtureOfExperts(tasks, experts=experts, **keywords)

    def call(self, features, fields, training=None):
        """Maps x (B, F) and the vectors of V fields (B, V, D) to logits (B, K)."""
        tasks = len(self.config.tasks)
        if self.config.architecture == "fm":
            scaled = ops.expand_dims(fields, 1) * self.scale
            pairs = self.interactions(ops.reshape(scaled, (-1, *fields.shape[1:])))
            return self.linear(features) + ops.reshape(pairs, (-1, tasks))
        mixed = self.dropout(self.mixture(features), training=training)
        return ops.reshape(self.logits(self.towers(mixed)), (-1, tasks))

    def compute_output_shape(self, features_shape, fields_shape):
        return (features_shape[0], len(self.config.tasks))

    def get_config(self) -> dict:
        return {**super().get_config(), "config": self.config.to_dict()}


def _separate_bottoms(tasks: int, expert_units: tuple[int, ...], dtype, name: str) -> keras.Sequential:
    """(B, F) to (B, K, U): a network of an expert's widths for each task."""
    first, *rest = expert_units
    layers = [
        keras.layers.Dense(tasks * first, activation="relu", kernel_initializer="he_uniform", dtype=dtype),
        keras.layers.Reshape((tasks, first), dtype=dtype),
        *(GroupedDense(units, activation="relu", dtype=dtype) for units in rest),
    ]
    return keras.Sequential(layers, name=name)
