"""StreamTrainer: nothing traced anew, nothing learned before it is scored, states that come back bit by bit."""

import dataclasses
import json

import numpy as np
import pytest

from beam_transforms.local_stream import ClosedWindow
from tests.tfx_pipeline.synthetic_examples import example_columns
from tfx_pipeline.file_names import EXTRA_FOLDER, RANKER_FILE
from tfx_pipeline.near_real_time.array_file import ArrayFile
from tfx_pipeline.near_real_time.batch_order import batch_order
from tfx_pipeline.near_real_time.config import StreamGateConfig, StreamTrainingConfig
from tfx_pipeline.near_real_time.learner import StreamLearner
from tfx_pipeline.ranker_settings import ranker_config

MODEL = {"user_bins": 5000, "author_bins": 100, "expert_units": [16, 8], "experts": 2, "model_width": 8}
TRAINING = StreamTrainingConfig(batch_size=64, scoring_rows=64, learning_rate=0.01)


@pytest.fixture(scope="module")
def new(small_schema):
    """`new(training=..., variant=...)`: a trainer with the weights of the seed."""
    from tfx_pipeline.near_real_time.trainer import StreamTrainer

    def make(training=TRAINING, variant="base"):
        return StreamTrainer.new(ranker_config(small_schema, {**MODEL, "variant": variant}), training)

    return make


@pytest.fixture(scope="module")
def shared(new):
    """A trainer and its state at start: tracing takes seconds."""
    trainer = new()
    return trainer, trainer.state()


@pytest.fixture
def trainer(shared):
    shared[0].set_state(shared[1])
    shared[0].take_touched()
    return shared[0]


@pytest.fixture(scope="module")
def columns(small_schema):
    return example_columns(small_schema, 1, 700, np.random.default_rng(0))


def _rows(columns, begin, end):
    return {name: values[begin:end] for name, values in columns.items()}


def _equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_windows_of_any_size_trace_nothing_anew(trainer, columns):
    before = trainer.state()
    trainer.trace()
    assert trainer.traces == 2
    assert _equal(trainer.state(), before)
    for begin, end in ((0, 64), (64, 65), (65, 65), (65, 193), (193, 493), (493, 700)):
        scores = trainer.score(_rows(columns, begin, end))
        assert {scores[task].shape for task in scores} == {(end - begin,)}
        losses = trainer.train(_rows(columns, begin, end), key=begin)
        assert len(losses.steps) == -(-(end - begin) // 64)
        assert (losses.rows, losses.rows_left_out) == (end - begin, 0)
        assert np.isfinite(losses.steps).all()
    trainer.train(_rows(columns, 0, 10), steps=3)
    assert trainer.traces == 2


def test_scores_do_not_depend_on_how_rows_share_batches_and_are_those_of_the_ranker(trainer, columns):
    whole = trainer.score(_rows(columns, 0, 150))
    parts = [trainer.score(_rows(columns, begin, begin + 50)) for begin in (0, 50, 100)]
    outputs = trainer.ranker({name: columns[name][:150] for name in trainer.ranker.config.input_shapes}, training=False)
    for task, scores in whole.items():
        np.testing.assert_allclose(scores, np.concatenate([part[task] for part in parts]), atol=1e-6)
        np.testing.assert_allclose(scores, np.ravel(outputs[task]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["base", "statistic"])
def test_a_step_is_the_one_of_fit(new, columns, variant):
    """On rows that fill a batch; some labels are masked."""
    trainer = new(TRAINING, variant)
    rows = {name: values.copy() for name, values in _rows(columns, 0, 64).items()}
    rows["label_mask"][::3] = 0
    before = trainer.state()
    order = np.random.default_rng([TRAINING.seed, 5]).permutation(64)
    loss = trainer.train(rows, key=5).mean
    after = trainer.state()
    trainer.set_state(before)
    weights, tasks = rows["label_mask"] * rows["label_weight"], trainer.ranker.config.tasks
    found = trainer.ranker.train_on_batch(
        {name: rows[name][order] for name in trainer.ranker.config.input_shapes},
        {task: rows["label"][order, k] for k, task in enumerate(tasks)},
        {task: weights[order, k] for k, task in enumerate(tasks)},
    )
    assert loss == pytest.approx(float(np.ravel(found)[0]), rel=1e-5)
    for one, other in zip(after, trainer.state(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_rows_that_fill_a_batch_have_no_weight():
    order, counts = batch_order(rows=100, batch_size=64, steps=2, passes=1, key=(0, 3))
    assert (len(order), counts.sum()) == (128, 100)
    assert sorted(order[counts > 0]) == list(range(100))
    order, counts = batch_order(rows=10, batch_size=64, steps=1, passes=3, key=(0, 3))
    assert np.bincount(order[counts > 0], minlength=10).tolist() == [3] * 10
    assert not np.array_equal(order, batch_order(rows=10, batch_size=64, steps=1, passes=3, key=(0, 4)).rows)


def test_more_examples_than_the_most_steps_hold_are_counted(trainer, columns):
    trainer.training = dataclasses.replace(TRAINING, most_steps=2)
    try:
        losses = trainer.train(_rows(columns, 0, 300))
    finally:
        trainer.training = TRAINING
    assert (len(losses.steps), losses.rows, losses.rows_left_out) == (2, 128, 172)


def test_the_rows_that_are_named_as_touched_are_all_that_changed(trainer, columns):
    before = {weight.path: weight.numpy().copy() for weight in trainer.ranker.weights}
    trainer.train(_rows(columns, 0, 20))
    touched = trainer.take_touched()
    assert len(touched) == 2
    for path, rows in touched.items():
        now = next(weight.numpy().copy() for weight in trainer.ranker.weights if weight.path == path)
        changed = np.flatnonzero((now != before[path]).any(axis=1))
        assert 0 < len(changed) <= len(rows) < len(now)
        assert set(changed) <= set(rows)
    assert trainer.take_touched() == {}


def test_touched_rows_that_nobody_takes_do_not_pile_up(trainer, columns):
    for key in range(3):
        trainer.train(_rows(columns, 0, 300), key=key)
    assert len(trainer._touched) == 2
    for path, parts in trainer._touched.items():
        table = next(weight for weight in trainer.ranker.weights if weight.path == path)
        assert sum(map(len, parts)) <= table.shape[0]
        assert len(parts) == 1


def test_the_learning_rate_is_that_of_the_configuration_after_a_restart_too(trainer, columns, tmp_path):
    trainer.train(_rows(columns, 0, 64))
    trainer.save(tmp_path / "state")
    trainer.training = dataclasses.replace(TRAINING, learning_rate=0.0625)
    try:
        trainer.restore(tmp_path / "state")
        assert float(trainer.ranker.optimizer.learning_rate) == 0.0625
        before = trainer.state()
        trainer.train(_rows(columns, 0, 64))
    finally:
        trainer.training = TRAINING
    quick = trainer.state()
    trainer.set_state(before)
    trainer.train(_rows(columns, 0, 64))
    kernel = next(index for index, array in enumerate(before) if array.ndim == 2 and array.dtype == np.float32)
    far, near = (np.abs(found[kernel] - before[kernel]).max() for found in (quick, trainer.state()))
    assert far > 3 * near > 0


def test_weights_of_a_version_whose_tasks_are_in_another_order_are_refused(trainer, tmp_path):
    """They have the same shapes; nothing is read of them."""
    config = trainer.ranker.config
    described = tmp_path / EXTRA_FOLDER / RANKER_FILE
    described.parent.mkdir()
    described.write_text(json.dumps(dataclasses.replace(config, tasks=config.tasks[::-1]).to_dict()))
    with pytest.raises(ValueError, match="is of another model; these settings differ: tasks"):
        trainer.weights_of(tmp_path)
    described.write_text("{}")
    with pytest.raises(ValueError, match="can't be read"):
        trainer.weights_of(tmp_path)


@pytest.mark.slow
def test_with_forecasters_too_nothing_is_traced_anew_and_states_come_back(new, columns, tmp_path):
    one, other = new(variant="statistic"), new(variant="statistic")
    for begin, end in ((0, 10), (10, 200), (200, 201)):
        one.score(_rows(columns, begin, end))
        one.train(_rows(columns, begin, end), key=begin)
    one.save(tmp_path / "state")
    other.restore(tmp_path / "state")
    for trainer in (one, other):
        trainer.train(_rows(columns, 201, 400), key=7)
    assert _equal(one.state(), other.state())
    assert one.traces == 2


def test_a_restored_trainer_learns_the_same_bits(trainer, new, columns, tmp_path):
    trainer.train(_rows(columns, 0, 100), key=1)
    trainer.save(tmp_path / "state", {"end_ms": 7}, {"kept": np.arange(3)})
    trainer.train(_rows(columns, 100, 300), key=2)
    expected = trainer.state()
    for other in (trainer, new()):
        facts, arrays = other.restore(tmp_path / "state")
        assert facts == {"end_ms": 7}
        assert arrays["kept"].tolist() == [0, 1, 2]
        other.train(_rows(columns, 100, 300), key=2)
        assert _equal(other.state(), expected)


def test_a_state_of_another_model_or_cut_short_is_refused(trainer, new, tmp_path):
    trainer.save(tmp_path / "state")
    with pytest.raises(ValueError, match="of another model; these settings differ: variant"):
        new(variant="statistic").restore(tmp_path / "state")
    data = (tmp_path / "state").read_bytes()
    before = trainer.state()
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:cut])
        with pytest.raises(ValueError, match="is damaged"):
            trainer.restore(tmp_path / "cut")
    assert _equal(trainer.state(), before)
    with pytest.raises(ValueError, match="the state is of another model"):
        trainer.set_state(before[1:])


def test_a_file_of_arrays_holds_no_objects(tmp_path):
    with pytest.raises(ValueError, match="numbers or truth values"):
        ArrayFile({}, {"x": np.array([{}])}).save(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_what_can_only_be_learned_by_heart_is_not_known_beforehand(trainer, small_schema, tmp_path):
    """A leak would show: each window's users are its own, their labels are coins, and it is learned by heart after."""
    trainer.training = dataclasses.replace(TRAINING, passes=20, learning_rate=0.03)
    learner = StreamLearner(trainer, tmp_path / "state", StreamGateConfig(largest_loss_factor=1e9))
    rng = np.random.default_rng(3)
    try:
        for number in range(5):
            examples = example_columns(small_schema, 1, 150, rng)
            examples["user_id"] = np.arange(150) + 1000 * number
            examples["user_author_counts"][:] = 1
            coin = (rng.random(150) < 0.5).astype(np.float32)
            examples["label"] = np.repeat(coin[:, None], len(small_schema.tasks), axis=1)
            window = ClosedWindow(30_000 * (number + 1), examples, [], None, {})
            assert learner.learn(window).decision == "learned"
    finally:
        trainer.training = TRAINING
    task = small_schema.task_names[0]
    assert learner.trailing()[task]["auc"] == pytest.approx(0.5, abs=0.07)  # 750 rows: three standard errors
    from keras_models.metrics import auc

    assert auc(coin.astype(int), trainer.score(examples)[task]) > 0.9
