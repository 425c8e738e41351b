import csv
import math
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_models import metrics
from keras_models.grouped_auc import GroupedAUC

GAUC_DATA = Path(__file__).parents[2].parent / "shared" / "data" / "gauc"


def _rows(count, seed=0):
    """Users 0 to 2 have positives only; scores tie often."""
    generator = np.random.default_rng(seed)
    users = generator.integers(0, 12, count)
    labels = np.where(users < 3, 1, generator.integers(0, 2, count))
    return users, labels, generator.choice([-1, 0, 0.1, 0.2, 0.5, 3], count).astype("float32")


def _check(metric, users, labels, scores):
    want = metrics.grouped_auc(users, labels, scores)
    got = {key: float(keras.ops.convert_to_numpy(value)) for key, value in metric.result().items()}
    assert list(got) == [f"{metric.name}_{figure}" for figure in ("auc", "gauc", "uauc")]
    assert list(got.values()) == pytest.approx([want.auc, want.gauc, want.uauc], abs=1e-6, nan_ok=True)


def test_is_the_exact_metric_of_the_last_rows_as_the_ring_goes_round():
    metric = GroupedAUC(capacity=100, result_every=1, name="click")
    seen = [np.zeros(0), np.zeros(0), np.zeros(0)]
    for seed, count in enumerate((7, 50, 90, 300, 1, 100, 64)):
        rows = _rows(count, seed)
        metric.update_state(rows[1][:, None], rows[2][:, None], users=rows[0])
        seen = [np.concatenate(pair)[-100:] for pair in zip(seen, rows, strict=True)]
        _check(metric, *seen)


def test_leaves_out_rows_of_weight_zero_and_scores_that_are_not_numbers():
    users, labels, scores = _rows(300)
    weights = np.random.default_rng(1).integers(0, 3, 300)
    scores[::7] = np.nan
    scores[::11] = np.inf
    metric = GroupedAUC(capacity=50)
    metric.update_state(labels, scores, weights, users=users)
    keep = (weights > 0) & ~np.isnan(scores)
    _check(metric, *(column[keep][-50:] for column in (users, labels, scores)))


def test_nothing_yet_is_not_a_number():
    metric = GroupedAUC(capacity=10, result_every=1)
    assert all(math.isnan(float(value)) for value in metric.result().values())
    metric.update_state(np.zeros((0,)), np.zeros((0,)), users=np.zeros((0,), np.int64))
    assert all(math.isnan(float(value)) for value in metric.result().values())
    metric.update_state([1, 0], [0.9, 0.1], users=[4, 5])
    assert [float(value) for value in metric.result().values()] == pytest.approx([1.0, math.nan, math.nan], nan_ok=True)
    metric.reset_state()
    assert all(math.isnan(float(value)) for value in metric.result().values())


def test_without_users_all_rows_are_one_users():
    _, labels, scores = _rows(80)
    metric = GroupedAUC(capacity=100)
    metric.update_state(labels, scores)
    _check(metric, np.zeros(80, int), labels, scores)


def test_computes_each_so_many_updates_and_when_asked_again():
    metric = GroupedAUC(capacity=200, result_every=3)
    figures = []
    for seed in range(5):
        rows = _rows(40, seed)
        metric.update_state(rows[1], rows[2], users=rows[0])
        figures.append(float(metric.result()["grouped_auc"]))
    assert figures[0] == figures[1] == figures[2] != figures[3] == figures[4]
    users, labels, scores = (
        np.concatenate(column) for column in zip(*(_rows(40, seed) for seed in range(5)), strict=True)
    )
    _check(metric, users, labels, scores)


class Ranker(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.click_auc = GroupedAUC(capacity=200, name="click")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.click_auc.update_state(y, y_pred, sample_weight, users=x["user_id"])
        return super().compute_metrics(x, y, y_pred, sample_weight)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_and_evaluate_report_the_exact_figures(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("PyTorch compiles with a C++ compiler; run it with KERAS_BACKEND=tensorflow")
    users, labels, _ = _rows(200)
    feature = np.random.default_rng(3).normal(size=(200, 1)).astype("float32")
    inputs = {"user_id": keras.Input((), dtype="int64", name="user_id"), "feature": keras.Input((1,), name="feature")}
    model = Ranker(inputs, keras.layers.Dense(1, "sigmoid")(inputs["feature"]))
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", jit_compile=jit_compile)
    x = {"user_id": users.astype(np.int32), "feature": feature}
    history = model.fit(x, labels, batch_size=32, epochs=2, verbose=0).history
    evaluated = model.evaluate(x, labels, batch_size=32, verbose=0, return_dict=True)
    want = metrics.grouped_auc(users, labels, model.predict(x, verbose=0)[:, 0])
    for key, value in (("click_auc", want.auc), ("click_gauc", want.gauc), ("click_uauc", want.uauc)):
        assert history[key] == pytest.approx([value, value], abs=1e-6)
        assert evaluated[key] == pytest.approx(value, abs=1e-6)


def test_config_rebuilds_it():
    metric = GroupedAUC(capacity=7, result_every=2, name="click")
    rebuilt = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert rebuilt.get_config() == metric.get_config()


@pytest.mark.slow
def test_equals_exact_arithmetic_on_the_shared_cases():
    if not GAUC_DATA.is_dir():
        pytest.skip(f"{GAUC_DATA} is missing; put the folder `shared` beside the repository to run this")
    cases: dict[str, list] = {}
    with (GAUC_DATA / "cases.csv").open() as file:
        for row in csv.DictReader(file):
            cases.setdefault(row["case"], []).append((int(row["user"]), int(row["label"]), float(row["score"])))
    with (GAUC_DATA / "expected.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert len(expected) == 9
    for row in expected:
        users, labels, scores = (np.array(column) for column in zip(*cases[row["case"]], strict=True))
        metric = GroupedAUC(capacity=10_000, name="x")
        metric.update_state(labels, scores, users=users)
        got = metric.result()
        for figure, column in (("auc", "auc"), ("gauc", "oracle_by_samples"), ("uauc", "oracle_mean")):
            want = float(row[column]) if row[column] else math.nan
            assert float(got[f"x_{figure}"]) == pytest.approx(want, abs=1e-6, nan_ok=True), (row["case"], column)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GroupedAUC(capacity=0), "capacity and result_every must be at least 1, got 0 and 20"),
        (lambda: GroupedAUC().update_state([1, 0], [0.1, 0.2, 0.3]), "one score a row, got lengths .*'y_true': 2"),
        (lambda: GroupedAUC().update_state([1, 0], [0.1, 0.2], users=[1]), "one score a row, got lengths .*'users': 1"),
    ],
)
def test_rejects_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
