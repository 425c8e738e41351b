import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.hashed_embedding import HashedEmbedding
from keras_models.optimizers.lazy_adam import LazyAdam


class DenseAdam(keras.optimizers.Adam):
    """Adam on gradients made dense: given sparse ones, Keras squares the slices of a row one by one, not their sum."""

    def apply(self, grads, trainable_variables=None):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            grads = [tf.convert_to_tensor(gradient) for gradient in grads]
        super().apply(grads, trainable_variables)


def _dense_model(optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def _table_model(optimizer, rows):
    keras.utils.set_random_seed(1)
    ids = keras.Input((6,), dtype="int64")
    vectors = HashedEmbedding(rows, 3, padding_id=None)(ids)
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(vectors)))
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def _weights_after(model, inputs, labels, steps):
    for _ in range(steps):
        model.train_on_batch(inputs, labels)
    return model.get_weights()


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"global_clipnorm": 0.5}])
def test_is_adam_on_dense_models(options):
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(16, 4)), generator.normal(size=(16, 1))
    lazy = _weights_after(_dense_model(LazyAdam(0.05, **options)), inputs, labels, 10)
    adam = _weights_after(_dense_model(keras.optimizers.Adam(0.05, **options)), inputs, labels, 10)
    for got, want in zip(lazy, adam, strict=True):
        # PyTorch's fused Adam rounds otherwise.
        np.testing.assert_allclose(got, want, rtol=1e-5 if keras.backend.backend() == "torch" else 0, atol=1e-7)


def test_is_adam_in_the_first_step():
    generator = np.random.default_rng(0)
    ids, labels = generator.integers(0, 100, (16, 6)), generator.normal(size=(16, 1))
    lazy = _weights_after(_table_model(LazyAdam(0.05), 40), ids, labels, 1)
    adam = _weights_after(_table_model(DenseAdam(0.05), 40), ids, labels, 1)
    for got, want in zip(lazy, adam, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_is_adam_where_each_step_touches_each_row():
    """With duplicates: 96 lookups of 5 rows."""
    generator = np.random.default_rng(0)
    ids, labels = generator.integers(0, 100, (16, 6)), generator.normal(size=(16, 1))
    lazy = _weights_after(_table_model(LazyAdam(0.05, weight_decay=0.1), 5), ids, labels, 20)
    adam = _weights_after(_table_model(DenseAdam(0.05, weight_decay=0.1), 5), ids, labels, 20)
    for got, want in zip(lazy, adam, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_row_left_out_keeps_its_moments():
    """By hand: two steps of gradient g with one step of another row between."""
    table = keras.Variable(np.zeros((2, 1), "float32"), name="embeddings")
    optimizer = LazyAdam(0.1)
    optimizer.build([table])
    m = v = w = 0.0
    for t, gradient in enumerate((2.0, None, -1.0), start=1):
        full = np.array([[gradient or 0.0], [0.0 if gradient else 5.0]], "float32")
        optimizer.apply([ops.convert_to_tensor(full)])
        if gradient:
            m = m + 0.1 * (gradient - m)
            v = v + 0.001 * (gradient**2 - v)
            w -= 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
        assert ops.convert_to_numpy(table)[0, 0] == pytest.approx(w, rel=1e-4)


def test_one_variable_holds_both_moments_of_a_table():
    optimizer = LazyAdam()
    optimizer.build([keras.Variable(np.zeros((10, 3)), name="embeddings"), keras.Variable(np.zeros((3,)), name="bias")])
    assert [tuple(v.shape) for v in optimizer.variables] == [(), (), (10, 2, 3), (3,), (3,)]


def test_rejects_amsgrad():
    with pytest.raises(ValueError, match="no amsgrad variant"):
        LazyAdam(amsgrad=True)
