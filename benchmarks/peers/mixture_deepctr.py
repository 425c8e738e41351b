"""The census model of `benchmarks/mixture_step.py` as DeepCTR's MMOE, on the Keras 2 that it is made for."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before TensorFlow is imported

import tensorflow as tf
from deepctr.feature_column import DenseFeat, SparseFeat, get_feature_names
from deepctr.models import MMOE


def trainer(variant: str, data: dict, vocabularies: list[int], batch: int):
    """A function that trains one epoch and returns the last loss, and the model's size.

    Args:
        variant: "graph" or "xla".
        data: `ids` within each feature's own vocabulary, `numeric` and `labels`, arrays of whole batches.
        vocabularies: Rows of each feature's table.
        batch: Rows a step.
    """
    tf.keras.utils.set_random_seed(0)
    columns = [SparseFeat(f"id_{i}", size, embedding_dim=8) for i, size in enumerate(vocabularies)]
    columns += [DenseFeat(f"number_{i}", 1) for i in range(data["numeric"].shape[1])]
    model = MMOE(
        columns,
        num_experts=8,
        expert_dnn_hidden_units=(64, 32),
        tower_dnn_hidden_units=(32,),
        gate_dnn_hidden_units=(),
        l2_reg_embedding=0.0,
        task_types=("binary", "binary"),
        task_names=("income", "never_married"),
    )
    model.compile(
        tf.keras.optimizers.Adam(1e-3),
        ["binary_crossentropy"] * 2,
        jit_compile=variant == "xla",
        steps_per_execution=10,
    )
    inputs = {f"id_{i}": data["ids"][:, i] for i in range(len(vocabularies))}
    inputs |= {f"number_{i}": data["numeric"][:, i] for i in range(data["numeric"].shape[1])}
    names = get_feature_names(columns)
    arrays = (
        {name: _batches(inputs[name], batch) for name in names},
        tuple(_batches(y, batch) for y in data["labels"].T),
    )
    dataset = tf.data.Dataset.from_tensor_slices(arrays)

    def epoch() -> float:
        return model.fit(dataset, epochs=1, verbose=0).history["loss"][-1]

    return epoch, model.count_params()


def _batches(column, batch: int):
    return column.reshape(-1, batch, 1)
