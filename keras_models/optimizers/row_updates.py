"""What optimizers of large embedding tables share: a step touches the rows that a batch looked up, and no other."""

from collections.abc import Sequence

import keras
from keras import ops


class RowUpdates(keras.optimizers.Optimizer):
    """An optimizer whose tables move row by row; mix it in before a Keras optimizer, which moves everything else.

    A variable is a table if its name is in `tables`, or if its gradient arrives as `tf.IndexedSlices`. Of a table, a
    step moves the rows whose gradient, summed over the batch, isn't zero throughout, and leaves the other rows and
    their state as they are. On TensorFlow the gradient of a lookup holds the looked-up rows only, and so does the work:
    it doesn't grow with the table. On JAX and PyTorch that gradient is as large as the table and so is the work; the
    result is the same. The same holds on TensorFlow for a table whose gradient is dense, because of a regularizer or
    because the table is also used whole.

    Clipping takes a row once, with the sum of its gradients, so that norms are those of the dense gradient. Weight
    decay takes the rows that a step moves (as FBGEMM's does), and all of any other variable.

    Subclasses implement `update_rows`.

    Args:
        tables: Names of the variables that are tables, besides those that a sparse gradient shows to be. The default
            is the name in `HashedEmbedding` and `keras.layers.Embedding`.

    Example:

    >>> class RowWiseSGD(RowUpdates, keras.optimizers.SGD):
    ...     def row_states(self, variable):
    ...         return []
    ...
    ...     def update_rows(self, gradient, rows, states, learning_rate):
    ...         return rows - learning_rate * gradient, []
    >>> optimizer = RowWiseSGD(0.1)

    Raises:
        ValueError: For `use_ema` and `gradient_accumulation_steps`, which read and write each row in each step, or if
            `tables` is a string.
    """

    def __init__(self, *args, tables: Sequence[str] = ("embeddings",), **kwargs) -> None:
        for name in ("use_ema", "gradient_accumulation_steps"):
            if kwargs.get(name):
                raise ValueError(
                    f"{name} has to read and write each row of a table in each step, which {type(self).__name__} is "
                    f"there to avoid; got {name}={kwargs[name]}, take a dense optimizer for that"
                )
        if isinstance(tables, str):
            raise ValueError(f"tables must be a sequence of variable names, got the string {tables!r}")
        super().__init__(*args, **kwargs)
        self.tables = tuple(tables)

    def is_table(self, variable) -> bool:
        """Whether `variable`, one of those that the optimizer was built with, is a table by name."""
        return self._trainable_variables[self._get_variable_index(variable)].name in self.tables

    def update_rows(self, gradient, rows, states, learning_rate):
        """The rule, for rows of one table.

        Args:
            gradient: (U, ...) summed over the batch.
            rows: (U, ...) of the table.
            states: The same rows of each variable that `row_states` gives.
            learning_rate: Of this step.

        Returns:
            The new rows, and a list of the new states' rows.
        """
        raise NotImplementedError

    def row_states(self, variable) -> list:
        """The optimizer's variables that belong to a table, each with one entry for each of its rows."""
        raise NotImplementedError

    def add_table_variable(self, table, name: str, width: tuple[int, ...], initializer="zeros"):
        """A variable with one entry of shape `width` for each row of `table`."""
        return self.add_variable(
            shape=(table.shape[0], *width),
            initializer=initializer,
            dtype=table.dtype,
            name=f"{table.path.replace('/', '_')}_{name}",
        )

    def apply(self, grads, trainable_variables=None) -> None:
        # Base classes divide by the loss scale and clip with operators that tf.IndexedSlices hasn't got.
        super().apply([_Slices(g) if _is_sparse(g) else g for g in grads], trainable_variables)

    def _clip_gradients(self, grads):
        if not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return grads
        # A row that occurs twice must count with the norm of its sum.
        grads = [g.summed() if isinstance(g, _Slices) else g for g in grads]
        values = super()._clip_gradients([g.values if isinstance(g, _Slices) else g for g in grads])
        return [
            _Slices(g.sparse, value) if isinstance(g, _Slices) else value
            for g, value in zip(grads, values, strict=True)
        ]

    def _use_weight_decay(self, variable) -> bool:
        return not self.is_table(variable) and super()._use_weight_decay(variable)

    def _backend_update_step(self, grads, trainable_variables, learning_rate) -> None:
        # As tf.IndexedSlices again, whose rows tf.distribute collects from all replicas.
        grads = [g.sparse if isinstance(g, _Slices) else g for g in grads]
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient, variable, learning_rate) -> None:
        if _is_sparse(gradient):
            self._update_sparse(_Slices(gradient).summed().sparse, variable, learning_rate)
        elif self.is_table(variable):
            self._update_dense(gradient, variable, learning_rate)
        else:
            super().update_step(gradient, variable, learning_rate)

    def _update_sparse(self, gradient, variable, learning_rate) -> None:
        targets = [variable, *self.row_states(variable)]
        # ResourceGather and ResourceScatterUpdate go to the rows alone. Anything that reads the variable as a tensor
        # copies the whole table once it has been scattered to, and scattering with an operation other than "update"
        # took six times as long.
        old = [ops.take(_native(target), gradient.indices, axis=0) for target in targets]
        new = self._touched_rows(gradient.values, old, variable, learning_rate)
        for target, rows in zip(targets, new, strict=True):
            self.assign(target, type(gradient)(rows, gradient.indices))

    def _update_dense(self, gradient, variable, learning_rate) -> None:
        targets = [variable, *self.row_states(variable)]
        old = [ops.convert_to_tensor(target) for target in targets]
        new = self._touched_rows(gradient, old, variable, learning_rate)
        for target, rows in zip(targets, new, strict=True):
            self.assign(target, rows)

    def _touched_rows(self, gradient, old, variable, learning_rate) -> list:
        rows, *states = old
        gradient = ops.cast(gradient, rows.dtype)
        learning_rate = ops.cast(learning_rate, rows.dtype)
        start = rows
        if self.weight_decay is not None and self.is_table(variable) and super()._use_weight_decay(variable):
            start = rows - rows * ops.cast(self.weight_decay, rows.dtype) * learning_rate
        new, new_states = self.update_rows(gradient, start, states, learning_rate)
        # The padding's row and rows behind a dead unit are looked up as well, and get zeros.
        touched = ops.any(ops.not_equal(gradient, 0), axis=tuple(range(1, len(gradient.shape))))
        return [
            ops.where(ops.reshape(touched, (-1, *(1 for _ in after.shape[1:]))), after, before)
            for after, before in zip([new, *new_states], old, strict=True)
        ]

    def get_config(self) -> dict:
        return {**super().get_config(), "tables": list(self.tables)}


class _Slices:
    """A sparse gradient with the arithmetic that Keras's optimizers need."""

    def __init__(self, sparse, values=None) -> None:
        self.sparse = sparse if values is None else type(sparse)(values, sparse.indices, sparse.dense_shape)

    @property
    def values(self):
        return self.sparse.values

    def __truediv__(self, scale):
        return _Slices(self.sparse, self.values / ops.cast(scale, self.values.dtype))

    def summed(self) -> "_Slices":
        """The same gradient with each row once."""
        import tensorflow as tf

        rows, position = tf.unique(self.sparse.indices)
        values = tf.math.unsorted_segment_sum(self.values, position, tf.size(rows))
        return _Slices(tf.IndexedSlices(values, rows, self.sparse.dense_shape))


def _is_sparse(gradient) -> bool:
    return type(gradient).__name__ == "IndexedSlices"


def _native(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable
