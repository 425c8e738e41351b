"""Optimizers for models with large embedding tables: Keras 3, one class a module."""

from keras_models.optimizers.lazy_adam import LazyAdam
from keras_models.optimizers.row_updates import RowUpdates
from keras_models.optimizers.row_wise_adagrad import RowWiseAdagrad

__all__ = [
    "LazyAdam",
    "RowUpdates",
    "RowWiseAdagrad",
]
