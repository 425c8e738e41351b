"""Copies of a model's weights on the host, brought up to date at the cost of what has changed."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_models.layers.hashed_embedding import HashedEmbedding
from keras_models.optimizers.row_updates import RowUpdates
from keras_models.ranker import LiveRanker

_SMALLEST = 2**22
_ALIGNMENT = 64
"""Bytes; TensorFlow takes a host array so aligned as a tensor without copying it."""


class WeightSnapshot:
    """The weights of a model as numpy arrays, in the order of `model.weights`.

    After a few steps on a few thousand examples nearly all rows of the embedding tables are what they were: of these
    only the rows that the examples looked up are gathered, and everything else, which is small, is copied whole.

        snapshot = WeightSnapshot(model)
        snapshot.update()                                        # all of it, once
        ...train on a window's examples...
        weights = snapshot.update(touched_rows(model, inputs))   # inputs: of all examples since the last update

    This is exact with the optimizers of `keras_models.optimizers`, which move no row but those that a batch looked up.
    Keras's own move every row in every step (moments decay, weight decay), and so does a regularizer of the table:
    `update(touched)` refuses both. It can't know of weights that were set otherwise: after `load_weights` or
    `set_weights` call `update()`.

    Args:
        model: A built model.

    Raises:
        ValueError: If it has no weights.
    """

    def __init__(self, model: keras.Model) -> None:
        if not model.weights:
            raise ValueError("the model has no weights yet; build it before")
        self._model = model
        self._weights = list(model.weights)
        self._arrays: list[np.ndarray] = []

    def update(self, touched: Mapping[str, np.ndarray] | None = None) -> list[np.ndarray]:
        """Brings the copies up to date.

        Args:
            touched: Path of a table -> rows (U,) that may have changed since the last update, see `touched_rows`.
                Tables that it doesn't name are copied whole, as all are if it is None and in the first update.

        Returns:
            The arrays. They belong to the snapshot: the next update changes them in place, so let a push end first.

        Raises:
            ValueError: If `touched` names no table of the model, rows that it hasn't got, or a table all of whose rows
                change in each step.
        """
        rows_of = self._checked(touched or {})
        if not self._arrays:
            self._arrays, rows_of = [_aligned(weight) for weight in self._weights], {}
        for weight, array in zip(self._weights, self._arrays, strict=True):
            rows = rows_of.get(weight.path)
            if rows is None:
                np.copyto(array, ops.convert_to_numpy(weight.value))
            elif len(rows):
                array[rows] = _gathered(weight, rows)
        return list(self._arrays)

    def _checked(self, touched: Mapping[str, Any]) -> dict[str, np.ndarray]:
        by_path = {weight.path: weight for weight in self._weights}
        rows_of = {}
        for path, given in touched.items():
            weight, rows = by_path.get(path), np.asarray(given)
            if weight is None:
                raise ValueError(f"touched names {path!r}, which the model hasn't got; its weights are {list(by_path)}")
            if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(weight.shape):
                raise ValueError(f"rows of {path} must be integers (U,), got {rows.dtype} {rows.shape}")
            if len(rows) and not 0 <= rows.min() <= rows.max() < weight.shape[0]:
                raise ValueError(f"rows of {path} must lie in [0, {weight.shape[0]}), got {rows.min()} to {rows.max()}")
            if weight.regularizer is not None:
                raise ValueError(f"{path} has a regularizer, which moves all its rows in each step; leave it out")
            rows_of[path] = rows
        optimizer = getattr(self._model, "optimizer", None)
        if rows_of and optimizer is not None and not isinstance(optimizer, RowUpdates):
            raise ValueError(
                f"{type(optimizer).__name__} moves all rows of a table in each step; take one of "
                "keras_models.optimizers, or copy all by update()"
            )
        return rows_of


def touched_rows(model: LiveRanker, inputs: Mapping[str, Any], smallest: int = _SMALLEST) -> dict[str, np.ndarray]:
    """The rows of the ranker's hashed tables that examples look up, for `WeightSnapshot.update`.

    Args:
        model: A ranker.
        inputs: Arrays by name as in `config.input_shapes`, of any number of examples; only ids are looked at.
        smallest: Numbers in a table from which on its rows are named. A smaller one is copied sooner than they are
            found.

    Returns:
        Path of a table -> its rows (U,), ascending, each once. Tables that aren't hashed, of codes and categories, are
        never among them: they are small, and that of the codes is moved whole by the forecaster's softmax.

    Raises:
        ValueError: If ids that the model looks up are missing.
    """
    rows = {}
    for table, names in _tables(model):
        missing = [name for name in names if name not in inputs]
        if missing:
            raise ValueError(f"inputs must hold {', '.join(missing)}, got {sorted(inputs)}")
        if math.prod(table.embeddings.shape) < smallest:
            continue
        ids = np.unique(np.concatenate([np.ravel(inputs[name]) for name in names]))
        rows[table.embeddings.path] = np.unique(ops.convert_to_numpy(table.bins_of(ids)))
    return rows


def _tables(model: LiveRanker) -> Iterator[tuple[HashedEmbedding, tuple[str, ...]]]:
    """Each hashed table with the inputs whose ids it embeds."""
    yield model.user_embedding, ("user_id",)
    yield model.author_embedding, ("author_id", "entered_authors")
    forecaster = model.foresight.product_forecaster if model.config.uses("product") else None
    if forecaster is not None:
        yield forecaster.product_embedding, ("product_ids",)


def _gathered(weight: keras.Variable, rows: np.ndarray) -> np.ndarray:
    value = weight.value
    # TensorFlow's variables gather in place; `ops.take` asks for their shape, and for that copies the whole table.
    taken = value.sparse_read(rows) if hasattr(value, "sparse_read") else ops.take(value, rows, axis=0)
    return ops.convert_to_numpy(taken)


def _aligned(weight: keras.Variable) -> np.ndarray:
    """An array for the weight, not filled."""
    dtype = ops.convert_to_numpy(ops.zeros((), weight.dtype)).dtype  # bfloat16 is none of numpy's own
    size = int(np.prod(weight.shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(tuple(weight.shape))
