import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from keras_models import weight_snapshot
from keras_models.optimizers import LazyAdam, RowWiseAdagrad
from keras_models.ranker import LiveRanker
from keras_models.weight_snapshot import WeightSnapshot

from .ranker_data import TASKS, inputs_for, small_config


def build(variant: str = "base", optimizer=None) -> LiveRanker:
    keras.utils.set_random_seed(0)
    ranker = LiveRanker(small_config(variant=variant))
    ranker.compile_defaults(1e-2)
    if optimizer is not None:
        ranker.compile(optimizer=optimizer, loss=dict.fromkeys(TASKS, "binary_crossentropy"), jit_compile=False)
    ranker.run_eagerly = True  # tracing a graph would take longer than the steps
    return ranker


def batch(ranker: LiveRanker, rows: int, seed: int, users: int = 10**6) -> tuple[dict, dict]:
    """Random examples; ids from a set far larger than the tables, and padding among the entered authors."""
    generator = np.random.default_rng(seed)
    inputs = inputs_for(ranker.config, rows)
    for name in ("user_id", "author_id", "entered_authors", "product_ids"):
        inputs[name] = np.where(inputs[name] < 0, -1, generator.integers(0, users, inputs[name].shape))
    labels = {task: generator.integers(0, 2, (rows, 1)).astype(np.float32) for task in TASKS}
    return inputs, labels


def touched_rows(ranker: LiveRanker, inputs: dict) -> dict[str, np.ndarray]:
    return weight_snapshot.touched_rows(ranker, inputs, smallest=0)  # the tables here are small ones


def joined(inputs: list[dict]) -> dict:
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}


def train(ranker: LiveRanker, batches: list[tuple[dict, dict]]) -> None:
    for inputs, labels in batches:
        ranker.train_on_batch(inputs, labels)


@pytest.fixture(scope="module")
def rankers() -> dict[str, tuple[LiveRanker, WeightSnapshot]]:
    found = {}
    for name, optimizer in (("LazyAdam", None), ("RowWiseAdagrad", RowWiseAdagrad(0.05, weight_decay=0.01))):
        ranker = build("base", optimizer)
        found[name] = ranker, WeightSnapshot(ranker)
        found[name][1].update()
    return found


@pytest.mark.parametrize("name", ["LazyAdam", "RowWiseAdagrad"])
@settings(max_examples=6, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(steps=st.integers(0, 3), rows=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_a_delta_is_the_whole_exactly(rankers, name, steps, rows, seed):
    ranker, snapshot = rankers[name]
    batches = [batch(ranker, rows, seed + step) for step in range(steps)]
    train(ranker, batches)
    touched = touched_rows(ranker, joined([inputs for inputs, _ in batches])) if batches else {}
    np.testing.assert_equal(snapshot.update(touched), ranker.get_weights())


@pytest.mark.slow
def test_a_delta_is_the_whole_with_all_forecasters():
    ranker = build("all")
    snapshot = WeightSnapshot(ranker)
    snapshot.update()
    for seed in range(3):
        batches = [batch(ranker, 9, 10 * seed + step) for step in range(2)]
        train(ranker, batches)
        touched = touched_rows(ranker, joined([inputs for inputs, _ in batches]))
        assert len(touched) == 3
        np.testing.assert_equal(snapshot.update(touched), ranker.get_weights())


def tables(ranker: LiveRanker) -> dict[str, np.ndarray]:
    return {w.path: keras.ops.convert_to_numpy(w.value).copy() for w in ranker.weights if w.path.endswith("embeddings")}


def test_a_step_moves_no_row_that_the_batch_did_not_look_up():
    """Rows looked up earlier keep their moments, and yet they rest until they are looked up again."""
    ranker = build()
    train(ranker, [batch(ranker, 9, seed) for seed in range(3)])
    before = tables(ranker)
    inputs, labels = batch(ranker, 9, 99)
    touched = touched_rows(ranker, inputs)
    train(ranker, [(inputs, labels)])
    assert set(touched) == set(before)
    for path, table in tables(ranker).items():
        moved = np.flatnonzero((table != before[path]).any(axis=1))
        assert set(moved) <= set(touched[path])
        assert 0.5 * len(touched[path]) < len(moved) < 0.5 * len(table)


def test_an_optimizer_that_moves_all_rows_would_make_a_delta_wrong_and_is_refused():
    ranker = build(optimizer=keras.optimizers.Adam(1e-2))
    snapshot = WeightSnapshot(ranker)
    train(ranker, [batch(ranker, 9, seed) for seed in range(3)])
    snapshot.update()
    inputs, labels = batch(ranker, 9, 99)
    touched, before = touched_rows(ranker, inputs), tables(ranker)
    train(ranker, [(inputs, labels)])
    moved = {path: np.flatnonzero((table != before[path]).any(axis=1)) for path, table in tables(ranker).items()}
    assert any(set(rows) - set(touched[path]) for path, rows in moved.items())
    with pytest.raises(ValueError, match=r"Adam moves all rows of a table in each step; take one of keras_models\.opt"):
        snapshot.update(touched)
    np.testing.assert_equal(snapshot.update(), ranker.get_weights())


def test_a_table_with_a_regularizer_is_refused():
    ranker = build()
    ranker.user_embedding.embeddings.regularizer = keras.regularizers.L2(0.1)
    inputs, _ = batch(ranker, 2, 0)
    with pytest.raises(ValueError, match="user_embedding/embeddings has a regularizer"):
        WeightSnapshot(ranker).update(touched_rows(ranker, inputs))


def test_only_the_rows_of_the_examples_are_named():
    ranker = build()
    inputs, _ = batch(ranker, 9, 1)
    inputs["user_id"][:] = 7
    touched = touched_rows(ranker, inputs)
    users = ranker.user_embedding
    expected = keras.ops.convert_to_numpy(users.bins_of(np.array([7])))[0]
    np.testing.assert_array_equal(touched[users.embeddings.path], expected)
    for path, rows in touched.items():
        assert (np.diff(rows) > 0).all(), path
    with pytest.raises(ValueError, match="inputs must hold entered_authors, got"):
        touched_rows(ranker, {"user_id": inputs["user_id"], "author_id": inputs["author_id"]})


def test_small_tables_are_copied_whole():
    ranker = build()
    inputs, labels = batch(ranker, 9, 1)
    assert weight_snapshot.touched_rows(ranker, inputs) == {}
    users, authors = ranker.user_embedding.embeddings, ranker.author_embedding.embeddings
    assert set(weight_snapshot.touched_rows(ranker, inputs, smallest=500 * 8)) == {users.path}
    assert set(weight_snapshot.touched_rows(ranker, inputs, smallest=300 * 8)) == {users.path, authors.path}
    snapshot = WeightSnapshot(ranker)
    snapshot.update()
    train(ranker, [(inputs, labels)])
    np.testing.assert_equal(snapshot.update(weight_snapshot.touched_rows(ranker, inputs)), ranker.get_weights())


def test_a_delta_takes_the_named_rows_and_leaves_the_others():
    """What `touched` doesn't name isn't read: that is what makes it cheap."""
    ranker = build()
    snapshot = WeightSnapshot(ranker)
    table = ranker.user_embedding.embeddings
    place = [weight.path for weight in ranker.weights].index(table.path)
    before = snapshot.update()[place].copy()
    table.assign(table + 1)
    after = snapshot.update({table.path: np.array([3, 5])})[place]
    changed = np.flatnonzero((after != before).any(axis=1))
    np.testing.assert_array_equal(changed, [3, 5])
    np.testing.assert_equal(snapshot.update({table.path: np.zeros(0, np.int64)})[place], after)
    np.testing.assert_equal(snapshot.update(), ranker.get_weights())


def test_the_first_update_is_whole_and_arrays_stay_the_same():
    ranker = build()
    snapshot = WeightSnapshot(ranker)
    inputs, labels = batch(ranker, 3, 0)
    first = snapshot.update(touched_rows(ranker, inputs))
    np.testing.assert_equal(first, ranker.get_weights())
    train(ranker, [(inputs, labels)])
    for array, same in zip(snapshot.update(touched_rows(ranker, inputs)), first, strict=True):
        assert array is same
        assert array.flags.c_contiguous and array.ctypes.data % 64 == 0
    ranker.set_weights([weight * 0 for weight in ranker.get_weights()])
    assert any(array.any() for array in first)  # copies, not the variables' own memory


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([500], r"rows of .*user_embedding/embeddings must lie in \[0, 500\), got 500 to 500"),
        ([-1, 3], r"must lie in \[0, 500\), got -1 to 3"),
        ([[1]], r"must be integers \(U,\), got int64 \(1, 1\)"),
        ([1.0], r"must be integers \(U,\), got float64 \(1,\)"),
    ],
)
def test_rows_that_the_table_has_not_got_are_refused(rows, message):
    ranker = build()
    with pytest.raises(ValueError, match=message):
        WeightSnapshot(ranker).update({ranker.user_embedding.embeddings.path: np.array(rows)})


def test_unknown_tables_and_models_without_weights_are_refused():
    ranker = build()
    with pytest.raises(ValueError, match="touched names 'users', which the model hasn't got"):
        WeightSnapshot(ranker).update({"users": np.array([1])})
    with pytest.raises(ValueError, match="no weights yet"):
        WeightSnapshot(keras.Sequential())


def test_any_model_with_tables_can_be_copied():
    from keras_models.layers import HashedEmbedding

    ids = keras.Input((2,), dtype="int64")
    table = HashedEmbedding(1000, 4, hashes=2, padding_id=None)
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(table(ids))))
    model.compile(LazyAdam(0.1), "mse", run_eagerly=True, jit_compile=False)
    snapshot = WeightSnapshot(model)
    snapshot.update()
    asked = np.random.default_rng(0).integers(0, 10**9, (16, 2))
    model.train_on_batch(asked, np.ones((16, 1)))
    rows = np.unique(keras.ops.convert_to_numpy(table.bins_of(asked)))
    np.testing.assert_equal(snapshot.update({table.embeddings.path: rows}), model.get_weights())
