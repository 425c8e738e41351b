"""Both optimizers: which rows move, what base-class options mean for tables, and how they live in `fit`."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.hashed_embedding import HashedEmbedding
from keras_models.optimizers.lazy_adam import LazyAdam
from keras_models.optimizers.row_wise_adagrad import RowWiseAdagrad

ROWS, WIDTH = 50, 4
BOTH = pytest.mark.parametrize("optimizer", [LazyAdam, RowWiseAdagrad])
only_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="only TensorFlow has sparse gradients; run it with KERAS_BACKEND=tensorflow",
)


# Two devices for a replica test, which takes effect only where TensorFlow hasn't started yet.
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)


def _model(optimizer, jit_compile=False, **embedding):
    keras.utils.set_random_seed(1)
    ids = keras.Input((3,), dtype="int64", name="ids")
    vectors = keras.layers.Reshape((3 * WIDTH,))(HashedEmbedding(ROWS, WIDTH, **embedding)(ids))
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Dense(5, "tanh")(vectors)))
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def _table(model):
    return ops.convert_to_numpy(_layer(model).embeddings)


def _layer(model) -> HashedEmbedding:
    return next(layer for layer in model.layers if isinstance(layer, HashedEmbedding))


def _batches(count=6, seed=0):
    generator = np.random.default_rng(seed)
    return [(generator.integers(0, 30, (8, 3)), generator.normal(size=(8, 1)).astype("float32")) for _ in range(count)]


def _train(model, batches):
    for ids, labels in batches:
        model.train_on_batch(ids, labels)
    return [ops.convert_to_numpy(weight) for weight in model.weights]


@BOTH
def test_moves_looked_up_rows_only(optimizer):
    model = _model(optimizer(0.1))
    ids, labels = _batches(1)[0]
    before = _table(model)
    model.train_on_batch(ids, labels)
    moved = np.flatnonzero((_table(model) != before).any(axis=1))
    looked_up = np.unique(ops.convert_to_numpy(_layer(model).bins_of(ids)))
    np.testing.assert_array_equal(moved, looked_up)
    model.train_on_batch(np.full((1, 3), ids[0, 0]), np.ones((1, 1), "float32"))
    again = _table(model)
    bin_ = int(ops.convert_to_numpy(_layer(model).bins_of(ids))[0, 0, 0])
    others = np.delete(np.arange(ROWS), bin_)
    assert (again[bin_] != before[bin_]).any()
    # Dense Adam would have moved the first batch's rows on.
    untouched = np.setdiff1d(others, looked_up)
    np.testing.assert_array_equal(again[untouched], before[untouched])


@BOTH
def test_padding_does_not_move_the_row_that_it_hashes_to(optimizer):
    model = _model(optimizer(0.1))
    layer = _layer(model)
    bin_ = int(ops.convert_to_numpy(layer.bins_of(np.array(-1)))[0])
    sharing = next(i for i in range(10_000) if int(ops.convert_to_numpy(layer.bins_of(np.array(i)))[0]) == bin_)
    model.train_on_batch(np.full((1, 3), sharing), np.ones((1, 1), "float32"))
    before = _table(model)
    model.train_on_batch(np.full((4, 3), -1), np.ones((4, 1), "float32"))
    np.testing.assert_array_equal(_table(model), before)


@only_tensorflow
@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clipnorm": 0.01},
        {"clipvalue": 0.01},
        {"global_clipnorm": 0.01},
        {"loss_scale_factor": 64.0},
        {"weight_decay": 0.3},
        {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_sparse_gradients_train_as_dense_ones_do(optimizer, options):
    """The same mathematics whichever form the gradient has, duplicates of an id in a batch included."""
    import tensorflow as tf

    class Densified(optimizer):
        def apply(self, grads, trainable_variables=None):
            super().apply([tf.convert_to_tensor(g) for g in grads], trainable_variables)

    settings = {"learning_rate": 0.1, **options}
    sparse = _train(_model(optimizer(**settings)), _batches())
    dense = _train(_model(Densified(**settings)), _batches())
    for got, want in zip(sparse, dense, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@only_tensorflow
@BOTH
def test_all_forms_of_a_train_step_agree(optimizer):
    expected = _train(_model(optimizer(0.1)), _batches())
    eager = _model(optimizer(0.1))
    eager.run_eagerly = True
    for model in (eager, _model(optimizer(0.1), jit_compile=True)):
        for got, want in zip(_train(model, _batches()), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@only_tensorflow
@BOTH
def test_is_not_traced_again_for_batches_of_other_sizes(optimizer):
    traces = []

    class Traced(optimizer):
        def apply(self, grads, trainable_variables=None):
            traces.append(1)
            super().apply(grads, trainable_variables)

    model = _model(Traced(0.1))
    counts = []
    for rows in (36, 45, 40, 3):
        model.fit(np.arange(3 * rows).reshape(rows, 3), np.ones((rows, 1)), batch_size=8, verbose=0)
        counts.append(len(traces))
    assert len(set(counts)) == 1


@only_tensorflow
@BOTH
def test_reads_no_table_whole(optimizer):
    """Once it has been scattered to, TensorFlow copies a variable that is read as a tensor: what the cost grew with."""
    import tensorflow as tf

    model = _model(optimizer(0.1))
    ids, labels = _batches(1)[0]
    model.train_on_batch(ids, labels)
    graph = tf.function(lambda *batch: model.train_step(batch)).get_concrete_function(ids, labels).graph
    operations = graph.get_operations()
    assert [op for op in operations if op.type == "ResourceScatterUpdate"]
    read = [op.outputs[0] for op in operations if op.type == "ReadVariableOp" and op.outputs[0].consumers()]
    assert read
    assert not [tensor for tensor in read if tensor.shape.rank and tensor.shape[0] == ROWS]


@BOTH
def test_saved_model_goes_on_as_the_original_would(optimizer, tmp_path):
    model = _model(optimizer(0.1))
    _train(model, _batches(3))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for got, want in zip(_train(loaded, _batches(3, 1)), _train(model, _batches(3, 1)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@BOTH
def test_config_rebuilds_it(optimizer):
    built = optimizer(0.25, epsilon=1e-3, tables=["codes"], weight_decay=0.1, clipnorm=1.0)
    rebuilt = keras.optimizers.deserialize(keras.optimizers.serialize(built))
    assert type(rebuilt) is optimizer
    assert rebuilt.get_config() == built.get_config()
    assert rebuilt.tables == ("codes",)


@only_tensorflow
@BOTH
def test_replicas_train_as_one_device_does(optimizer):
    import tensorflow as tf

    expected = _train(_model(optimizer(0.1)), _batches())
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        pytest.skip("needs two logical CPU devices; run this file on its own")
    with tf.distribute.MirroredStrategy([device.name for device in devices[:2]]).scope():
        model = _model(optimizer(0.1))
    for ids, labels in _batches():
        model.fit(ids, labels, batch_size=8, shuffle=False, verbose=0)
    for got, want in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@only_tensorflow
@BOTH
def test_dynamic_loss_scale_changes_nothing(optimizer):
    expected = _train(_model(optimizer(0.1)), _batches())
    scaled = _train(_model(keras.optimizers.LossScaleOptimizer(optimizer(0.1), initial_scale=8.0)), _batches())
    for got, want in zip(scaled, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("options", [{"use_ema": True}, {"gradient_accumulation_steps": 2}])
def test_rejects_what_moves_each_row_each_step(optimizer, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} has to read and write each row"):
        optimizer(0.1, **options)


@BOTH
def test_rejects_a_name_for_a_list_of_names(optimizer):
    with pytest.raises(ValueError, match="tables must be a sequence of variable names, got the string 'embeddings'"):
        optimizer(0.1, tables="embeddings")


@BOTH
def test_a_regularizer_is_right_though_not_cheap(optimizer):
    model = _model(optimizer(0.1), embeddings_regularizer="l2")
    before = _table(model)
    model.train_on_batch(*_batches(1)[0])
    assert (_table(model) != before).any(axis=1).all()
