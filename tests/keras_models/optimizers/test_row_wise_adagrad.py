import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.hashed_embedding import HashedEmbedding
from keras_models.optimizers.row_wise_adagrad import RowWiseAdagrad


def test_equals_numpy_over_many_steps():
    generator = np.random.default_rng(0)
    start = generator.normal(size=(20, 4)).astype("float32")
    bias = generator.normal(size=4).astype("float32")
    variables = [keras.Variable(start, name="embeddings"), keras.Variable(bias, name="bias")]
    optimizer = RowWiseAdagrad(0.3, initial_accumulator_value=0.2, epsilon=1e-6)
    optimizer.build(variables)
    table, accumulator = start.astype(float), np.full((20, 1), 0.2)
    bias_accumulator = np.full(4, 0.2)
    for _ in range(15):
        rows = np.unique(generator.integers(0, 20, 6))
        gradient = np.zeros((20, 4), "float32")
        gradient[rows] = generator.normal(size=(len(rows), 4))
        bias_gradient = generator.normal(size=4).astype("float32")
        optimizer.apply([ops.convert_to_tensor(gradient), ops.convert_to_tensor(bias_gradient)])
        accumulator += (gradient**2).mean(axis=1, keepdims=True)
        table -= 0.3 * gradient / np.sqrt(accumulator + 1e-6)
        bias_accumulator += bias_gradient**2
        bias = bias - 0.3 * bias_gradient / np.sqrt(bias_accumulator + 1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(variables[0]), table, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(variables[1]), bias, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="only TensorFlow has sparse gradients; run it with KERAS_BACKEND=tensorflow",
)
def test_sums_the_gradients_of_a_row_before_squaring():
    import tensorflow as tf

    table = keras.Variable(np.zeros((5, 2), "float32"), name="embeddings")
    optimizer = RowWiseAdagrad(1.0, initial_accumulator_value=0.0, epsilon=0.0)
    optimizer.build([table])
    values = tf.constant([[1.0, 0.0], [2.0, 4.0], [0.0, 7.0]])
    optimizer.apply([tf.IndexedSlices(values, tf.constant([3, 3, 1]), tf.constant([5, 2]))])
    # Row 3 gets (3, 4), whose mean square is 12.5.
    expected = np.zeros((5, 2))
    expected[3] = -np.array([3, 4]) / np.sqrt(12.5)
    expected[1] = -np.array([0, 7]) / np.sqrt(24.5)
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-6)


def test_is_adagrad_on_dense_models():
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(16, 4)), generator.normal(size=(16, 1))
    weights = []
    for optimizer in (RowWiseAdagrad(0.1), keras.optimizers.Adagrad(0.1)):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
        model.compile(optimizer, "mse", jit_compile=False)
        for _ in range(10):
            model.train_on_batch(inputs, labels)
        weights.append(model.get_weights())
    for got, want in zip(*weights, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_keeps_one_number_a_row():
    ids = keras.Input((2,), dtype="int64")
    model = keras.Model(ids, HashedEmbedding(100, 8)(ids))
    optimizer = RowWiseAdagrad()
    optimizer.build(model.trainable_variables)
    assert [tuple(v.shape) for v in optimizer.variables] == [(), (), (100, 1)]
