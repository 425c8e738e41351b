import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_models.metrics import auc, bootstrap, grouped_auc, paired_bootstrap

GAUC_DATA = Path(__file__).parents[2].parent / "shared" / "data" / "gauc"

rows = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0])), max_size=40
)


def _brute_force_auc(labels, scores) -> float:
    positives = [s for label, s in zip(labels, scores, strict=True) if label]
    negatives = [s for label, s in zip(labels, scores, strict=True) if not label]
    if not positives or not negatives:
        return math.nan
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


def _columns(rows):
    users, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(users, int), np.array(labels, int), np.array(scores, float)


@given(rows)
def test_equals_brute_force_over_all_pairs(rows):
    users, labels, scores = _columns(rows)
    got = grouped_auc(users, labels, scores)
    assert got.auc == pytest.approx(_brute_force_auc(labels, scores), abs=1e-12, nan_ok=True)
    assert auc(labels, scores) == pytest.approx(got.auc, abs=0, nan_ok=True)

    by_user = {
        user: (_brute_force_auc(labels[users == user], scores[users == user]), (users == user).sum())
        for user in set(users.tolist())
    }
    defined = [(area, count) for area, count in by_user.values() if not math.isnan(area)]
    assert got.users == len(by_user)
    assert got.users_left_out == len(by_user) - len(defined)
    uauc = sum(area for area, _ in defined) / len(defined) if defined else math.nan
    gauc = sum(area * count for area, count in defined) / sum(c for _, c in defined) if defined else math.nan
    assert got.uauc == pytest.approx(uauc, abs=1e-12, nan_ok=True)
    assert got.gauc == pytest.approx(gauc, abs=1e-12, nan_ok=True)


@given(rows, st.randoms())
def test_order_of_rows_and_scale_of_scores_do_not_matter(rows, random):
    users, labels, scores = _columns(rows)
    order = random.sample(range(len(rows)), len(rows))
    got = grouped_auc(users[order] * 10**12, labels[order], np.exp(scores[order]) * 1e-3)
    np.testing.assert_equal(dataclasses.astuple(got), dataclasses.astuple(grouped_auc(users, labels, scores)))


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
        users, labels, scores = zip(*cases[row["case"]], strict=True)
        got = grouped_auc(users, labels, scores)
        assert got.users == int(row["users"])
        assert got.users_left_out == int(row["users"]) - int(row["users_two_class"])
        for value, column in ((got.auc, "auc"), (got.gauc, "oracle_by_samples"), (got.uauc, "oracle_mean")):
            want = float(row[column]) if row[column] else math.nan
            assert value == pytest.approx(want, abs=1e-9, nan_ok=True), (row["case"], column)


def test_a_million_rows_of_known_figures():
    generator = np.random.default_rng(0)
    users = generator.integers(0, 50_000, 1_000_000)
    scores = generator.random(1_000_000)
    labels = generator.random(1_000_000) < scores
    got = grouped_auc(users, labels, scores)
    assert got.gauc == pytest.approx(5 / 6, abs=0.005)


def test_users_may_be_names():
    users, labels, scores = ["ann", "bob", "ann", "bob"], [1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3]
    assert grouped_auc(users, labels, scores).users_left_out == 1


@pytest.mark.parametrize(
    ("users", "labels", "scores", "message"),
    [
        ([1, 2], [0, 1], [0.1], "scores and labels must have one shape"),
        ([1], [0, 1], [0.1, 0.2], "users and labels must be vectors of one length"),
        ([1, 2], [0, 2], [0.1, 0.2], "labels must be 0 or 1, got 2 in row 1"),
        ([1, 2], [0.0, math.nan], [0.1, 0.2], "labels must be 0 or 1, got nan in row 1"),
        ([1, 2], [0, 1], [math.nan, 0.2], "got NaN in row 0"),
        ([[1], [2]], [[0], [1]], [[0.1], [0.2]], "labels must be a vector"),
    ],
)
def test_rejects_what_it_cannot_rank(users, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        grouped_auc(users, labels, scores)


def _log(seed: int, users: int = 60, rows: int = 600):
    generator = np.random.default_rng(seed)
    user = generator.integers(0, users, rows)
    taste = generator.normal(size=rows)
    labels = (taste + generator.normal(size=rows) + user / users > 0.5).astype(int)
    return user, labels, taste, np.round(taste + generator.normal(size=rows), 1)


def test_bootstrap_equals_repeating_the_drawn_users_rows():
    users, labels, good, noisy = _log(0)
    got = paired_bootstrap(users, labels, good, noisy, resamples=50, seed=3)
    generator = np.random.default_rng(3)
    drawn_figures = []
    for _ in range(50):
        drawn = generator.integers(60, size=60)
        take = np.concatenate([np.flatnonzero(users == user) for user in drawn])
        # Each time that a user is drawn counts as a user of its own.
        owner = np.repeat(np.arange(60), [(users == user).sum() for user in drawn])
        a, b = (grouped_auc(owner, labels[take], scores[take]) for scores in (good, noisy))
        drawn_figures.append((a.auc - b.auc, a.gauc - b.gauc, a.uauc - b.uauc))
    low, high = np.quantile(drawn_figures, [0.025, 0.975], axis=0)
    for i, name in enumerate(("auc", "gauc", "uauc")):
        assert got[name].low == pytest.approx(low[i], abs=1e-12)
        assert got[name].high == pytest.approx(high[i], abs=1e-12)
    a, b = (grouped_auc(users, labels, scores) for scores in (good, noisy))
    assert [got[name].value for name in got] == pytest.approx([a.auc - b.auc, a.gauc - b.gauc, a.uauc - b.uauc])


def test_intervals_tell_a_real_difference_from_none():
    users, labels, good, noisy = _log(1, rows=6000)
    for interval in paired_bootstrap(users, labels, good, noisy).values():
        assert 0 < interval.low < interval.value < interval.high
    for interval in paired_bootstrap(users, labels, good, good).values():
        assert (interval.low, interval.value, interval.high) == (0, 0, 0)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """True AUC of N(1, 1) against N(0, 1) is 0.7602; of 60 intervals of 95 %, 50 to 60 should hold it."""
    covered = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 2, 400)
        interval = bootstrap(np.arange(400), labels, labels + generator.normal(size=400), resamples=200)["auc"]
        covered += interval.low <= 0.7602 <= interval.high
    assert 50 <= covered <= 60


def test_same_seed_same_interval():
    users, labels, good, noisy = _log(2)
    first = paired_bootstrap(users, labels, good, noisy, resamples=20, seed=1)
    assert first == paired_bootstrap(users, labels, good, noisy, resamples=20, seed=1)
    assert first != paired_bootstrap(users, labels, good, noisy, resamples=20, seed=2)


def test_undefined_figures_have_undefined_intervals():
    got = paired_bootstrap([1, 2], [0, 1], [0.1, 0.2], [0.3, 0.2], resamples=20)
    assert got["auc"].value == 1.0
    assert math.isnan(got["gauc"].value)
    assert math.isnan(got["gauc"].low)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        paired_bootstrap([1], [0], [0.1], [0.1], resamples=0)
