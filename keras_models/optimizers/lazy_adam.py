"""Adam for models with large embedding tables."""

import keras
from keras import ops

from keras_models.optimizers.row_updates import RowUpdates


@keras.saving.register_keras_serializable(package="live_foresight")
class LazyAdam(RowUpdates, keras.optimizers.Adam):
    """Adam whose moments move, for embedding tables, only in the rows that a step touches.

    For a row with gradient g in step t, and for all entries of other variables, it is Keras's Adam,

        m <- m + (1 - beta_1) (g - m)
        v <- v + (1 - beta_2) (g^2 - v)
        w <- w - learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    with t counting all steps. A row without gradient keeps its moments and doesn't move, where Adam would let the
    moments decay and move the row on. So it equals Adam on models without tables, in the first step, and as long as
    each row is touched in each step; otherwise a seldom row keeps moments, and with them a step, from long ago.

    Which variables are tables, what a step costs, and what clipping and weight decay mean, is said in `RowUpdates`.

    Args:
        learning_rate: A number, a schedule, or a function without arguments.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
        tables: Names of variables that are tables, see `RowUpdates`.
        **kwargs: `weight_decay`, `clipnorm`, `clipvalue`, `global_clipnorm`, `loss_scale_factor` and `name`, as in
            `keras.optimizers.Adam`.

    Raises:
        ValueError: For `amsgrad`, and what `RowUpdates` can't do.

    Example:

    >>> from keras_models.layers import HashedEmbedding
    >>> ids = keras.Input((2,), dtype="int64")
    >>> vectors = HashedEmbedding(1000, 8, padding_id=None)(ids)
    >>> model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(vectors)))
    >>> model.compile(optimizer=LazyAdam(0.01), loss="mse", jit_compile=False)
    >>> history = model.fit(np.arange(64).reshape(32, 2), np.ones((32, 1)), verbose=0)

    Reference: Adam, arXiv:1412.6980; `LazyAdam` in TensorFlow Addons.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        tables=("embeddings",),
        name: str = "lazy_adam",
        **kwargs,
    ) -> None:
        if kwargs.get("amsgrad"):
            raise ValueError("LazyAdam has no amsgrad variant; got amsgrad=True")
        super().__init__(learning_rate, beta_1, beta_2, epsilon, tables=tables, name=name, **kwargs)

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        if reference_variable.name not in self.tables:
            return super().add_variable_from_reference(reference_variable, name=name, initializer=initializer)
        if name == "velocity":
            return None
        # Both moments of a row stand side by side: one way to memory for two.
        return self.add_table_variable(reference_variable, "moments", width=(2, *reference_variable.shape[1:]))

    def row_states(self, variable) -> list:
        index = self._get_variable_index(variable)
        return [state for state in (self._momentums[index], self._velocities[index]) if state is not None]

    def update_rows(self, gradient, rows, states, learning_rate):
        momentum, velocity = ops.unstack(states[0], axis=1) if len(states) == 1 else states
        step = ops.cast(self.iterations + 1, rows.dtype)
        beta_1, beta_2 = (ops.cast(beta, rows.dtype) for beta in (self.beta_1, self.beta_2))
        alpha = learning_rate * ops.sqrt(1 - ops.power(beta_2, step)) / (1 - ops.power(beta_1, step))
        momentum = momentum + (gradient - momentum) * (1 - self.beta_1)
        velocity = velocity + (ops.square(gradient) - velocity) * (1 - self.beta_2)
        rows = rows - momentum * alpha / (ops.sqrt(velocity) + self.epsilon)
        return rows, [ops.stack([momentum, velocity], axis=1)] if len(states) == 1 else [momentum, velocity]

    def get_config(self) -> dict:
        config = super().get_config()
        del config["amsgrad"]
        return config
