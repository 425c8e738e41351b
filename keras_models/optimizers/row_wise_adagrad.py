"""Adagrad for models with large embedding tables."""

import keras
from keras import ops

from keras_models.optimizers.row_updates import RowUpdates


@keras.saving.register_keras_serializable(package="live_foresight")
class RowWiseAdagrad(RowUpdates, keras.optimizers.Adagrad):
    """Adagrad with one accumulator for each row of an embedding table: 4 bytes of state a row.

    For a row w of D entries with gradient g,

        a <- a + sum_d g_d^2 / D
        w <- w - learning_rate g / sqrt(a + epsilon)

    and Keras's Adagrad, which has this rule with an accumulator for each entry, for all other variables. A row without
    gradient doesn't move in either, so that nothing is approximated by leaving it out. A variable that isn't in
    `tables` but has a sparse gradient keeps an accumulator for each entry.

    It departs from FBGEMM in epsilon, which FBGEMM adds to the root, and here as in Keras stands below it; and in the
    accumulators, which start at 0.1, as in Keras, and not at 0.

    Which variables are tables, what a step costs, and what clipping and weight decay mean, is said in `RowUpdates`.

    Args:
        learning_rate: A number, a schedule, or a function without arguments.
        initial_accumulator_value: What the accumulators start with.
        epsilon: Added to the accumulators before the root is taken.
        tables: Names of variables that are tables, see `RowUpdates`.
        **kwargs: `weight_decay`, `clipnorm`, `clipvalue`, `global_clipnorm`, `loss_scale_factor` and `name`, as in
            `keras.optimizers.Adagrad`.

    Raises:
        ValueError: For what `RowUpdates` can't do.

    Example:

    >>> from keras_models.layers import HashedEmbedding
    >>> ids = keras.Input((2,), dtype="int64")
    >>> vectors = HashedEmbedding(1000, 8, padding_id=None)(ids)
    >>> model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(vectors)))
    >>> model.compile(optimizer=RowWiseAdagrad(0.05), loss="mse", jit_compile=False)
    >>> history = model.fit(np.arange(64).reshape(32, 2), np.ones((32, 1)), verbose=0)

    Reference: `EXACT_ROWWISE_ADAGRAD` of FBGEMM; DLRM, arXiv:1906.00091; Gupta et al., Training Recommender Systems at
    Scale (KDD 2021).
    """

    def __init__(
        self,
        learning_rate=0.01,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        tables=("embeddings",),
        name: str = "row_wise_adagrad",
        **kwargs,
    ) -> None:
        super().__init__(learning_rate, initial_accumulator_value, epsilon, tables=tables, name=name, **kwargs)

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        if name != "accumulator" or reference_variable.name not in self.tables:
            return super().add_variable_from_reference(reference_variable, name=name, initializer=initializer)
        width = tuple(1 for _ in reference_variable.shape[1:])
        return self.add_table_variable(reference_variable, name, width=width, initializer=initializer)

    def row_states(self, variable) -> list:
        return [self._accumulators[self._get_variable_index(variable)]]

    def update_rows(self, gradient, rows, states, learning_rate):
        (accumulator,) = states
        squares = ops.square(gradient)
        if accumulator.shape[1:] != rows.shape[1:]:
            squares = ops.mean(squares, axis=tuple(range(1, len(rows.shape))), keepdims=True)
        accumulator = accumulator + squares
        return rows - learning_rate * gradient / ops.sqrt(accumulator + self.epsilon), [accumulator]
