"""ProgressiveValidation: exact figures of a window and of the trailing ones, bounded, and the same after a restart."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_models.metrics import grouped_auc
from tfx_pipeline.near_real_time.progressive_validation import ProgressiveValidation, ScoredWindow, figures, mean_loss

TASKS = ("ctr", "gtr")


def _window(rng, rows):
    return ScoredWindow(
        rng.integers(0, 5, rows), rng.random((rows, 2)) < 0.4, rng.random((rows, 2)) < 0.8,
        rng.integers(1, 9, (rows, 2)).astype(np.float32) / 10,
    )  # fmt: skip


def _check(found, windows):
    joined = [np.concatenate([getattr(window, name) for window in windows]) for name in
              ("users", "labels", "counts", "scores")]  # fmt: skip
    for column, task in enumerate(TASKS):
        rows = joined[2][:, column]
        expected = grouped_auc(joined[0][rows], joined[1][rows, column].astype(int), joined[3][rows, column])
        for name in ("auc", "gauc", "uauc"):
            value = getattr(expected, name)
            assert found[task][name] == (None if math.isnan(value) else value)
        assert (found[task]["rows"], found[task]["positives"]) == (rows.sum(), joined[1][rows, column].sum())


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 60), st.integers(0, 99))
def test_trailing_figures_are_those_of_the_kept_windows_and_come_back(sizes, most_windows, most_rows, seed):
    rng = np.random.default_rng(seed)
    validation = ProgressiveValidation(TASKS, most_windows, most_rows)
    added = []
    for rows in sizes:
        validation.add(_window(rng, rows))
        if rows:
            added.append(rows)
    rng = np.random.default_rng(seed)
    windows = [window for window in (_window(rng, rows) for rows in sizes) if len(window.users)]
    kept = windows[-most_windows:]
    while len(kept) > 1 and sum(len(window.users) for window in kept) > most_rows:
        kept = kept[1:]
    assert len(validation) == len(kept)
    if kept:
        _check(validation.trailing(), kept)
    again = ProgressiveValidation(TASKS, most_windows, most_rows)
    again.restore(validation.arrays())
    assert again.trailing() == validation.trailing()
    more = _window(np.random.default_rng(seed + 1), 7)
    validation.add(more)
    again.add(more)
    assert again.trailing() == validation.trailing()
    assert len(again) == len(validation)


def test_rows_that_take_a_label_back_and_rows_without_a_label_do_not_count():
    examples = {
        "user_id": np.array([1, 1, 2]),
        "label": np.array([[1, 0], [1, 0], [0, 1]], np.float32),
        "label_mask": np.array([[1, 0], [1, 1], [1, 1]], np.float32),
        "label_weight": np.array([[1, 1], [-1, 1], [1, 1]], np.float32),
    }
    scores = {"ctr": np.array([0.9, 0.1, 0.2]), "gtr": np.array([0.5, 0.25, 0.5])}
    found = figures(ScoredWindow.of(examples, scores, TASKS), TASKS)
    assert (found["ctr"]["rows"], found["ctr"]["positives"], found["ctr"]["auc"]) == (2, 1, 1.0)
    assert (found["gtr"]["rows"], found["gtr"]["positives"]) == (2, 1)
    assert found["ctr"]["loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)
    assert mean_loss(found) == pytest.approx((found["ctr"]["loss"] + found["gtr"]["loss"]) / 2)


def test_scores_that_are_not_finite_have_no_figures():
    window = _window(np.random.default_rng(0), 20)
    window.scores[window.counts[:, 0].nonzero()[0][0], 0] = np.nan
    found = figures(window, TASKS)
    assert not found["ctr"]["finite"]
    assert found["ctr"]["auc"] is None
    assert found["gtr"]["finite"]
    assert math.isnan(mean_loss(found))


def test_arguments_and_states_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ProgressiveValidation(TASKS, windows=0)
    with pytest.raises(ValueError, match="of 2 tasks, expected 1"):
        ProgressiveValidation(("ctr",)).restore(ProgressiveValidation(TASKS).arrays())
