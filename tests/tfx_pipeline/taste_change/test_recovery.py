"""Recovery: GAUC by window against the exact metric, the share of the way back on scores made by hand."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keras_models.metrics import grouped_auc
from tfx_pipeline.taste_change.recovery import Recovery

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
FIRST, LAST = -10, 11


def rows(seed, users=30, a_window=120):
    """Users, windows and labels of random rows."""
    rng = np.random.default_rng(seed)
    windows = np.repeat(np.arange(FIRST, LAST + 1), a_window)
    return rng.integers(0, users, len(windows)), windows, (rng.random(len(windows)) < 0.3).astype(np.float32), rng


def ranked(labels, right, rng):
    """Scores whose order is right for a share of the rows: those say their label, the others its opposite."""
    said = np.where(rng.random(len(labels)) < right, labels, 1 - labels)
    return said + 0.01 * rng.random(len(labels))


@given(st.integers(0, 999), st.integers(2, 9))
@settings(deadline=None, phases=PHASES, max_examples=25)
def test_gauc_of_a_window_is_the_exact_one_ties_included(seed, distinct):
    users, windows, labels, rng = rows(seed, a_window=60)
    scores = rng.integers(0, distinct, len(labels)) / distinct
    recovery = Recovery(users, windows, labels, {"a": scores, "b": -scores}, "b", resamples=3, seed=seed)
    assert recovery.windows.tolist() == list(range(FIRST, LAST + 1))
    for model, score in (("a", scores), ("b", -scores)):
        for window, figure in zip(recovery.windows, recovery.gauc(model), strict=True):
            inside = windows == window
            assert figure.value == pytest.approx(grouped_auc(users[inside], labels[inside], score[inside]).gauc)


def learning(back_in, rng, windows, labels):
    """A model that is right before window 0, wrong from then on, and right again from window `back_in` on."""
    right = np.where((windows < 0) | (windows >= back_in), 0.9, 0.2)
    return ranked(labels, right, rng)


@pytest.mark.parametrize(("back_in", "recovered", "needed"), [(3, True, 3), (0, True, 0), (5, False, 5), (9, False, 9)])
def test_recovered_means_eighty_per_cent_of_the_way_back_in_the_windows_after_the_third(back_in, recovered, needed):
    users, windows, labels, rng = rows(1, a_window=1500)
    scores = {"a": learning(back_in, rng, windows, labels), "b": learning(99, rng, windows, labels)}
    recovery = Recovery(users, windows, labels, scores, "b", resamples=50)
    assert recovery.recovered("a") is recovered
    assert recovery.windows_to_recover("a") == needed
    assert recovery.windows_to_recover("b") is None
    assert recovery.windows_to_recover("a", 2.0) is None
    assert recovery.recovered("b") is False
    assert recovery.best_share("b", LAST + 1) < 0.2
    for figure in (recovery.fall, recovery.level("a"), recovery.share("a"), *recovery.gauc("a")):
        assert figure.low < figure.value < figure.high
    assert recovery.level("a").value > 0.8
    assert recovery.fall.value < 0.3
    if recovered:
        assert recovery.share("a").value == pytest.approx(1, abs=0.05)


def test_a_model_that_never_fell_is_judged_by_the_same_fall():
    users, windows, labels, rng = rows(2, a_window=1500)
    half = ranked(labels, np.where(windows < 0, 0.9, 0.6), rng)
    scores = {"a": half, "b": learning(99, rng, windows, labels)}
    recovery = Recovery(users, windows, labels, scores, "b", resamples=20)
    assert 0.3 < recovery.share("a").value < 0.8
    assert not recovery.recovered("a")


def test_rows_that_no_model_scored_are_left_out_and_missing_windows_are_named():
    users, windows, labels, rng = rows(3)
    scores = ranked(labels, 0.8, rng)
    unknown = np.where(windows == 4, np.nan, scores)
    with pytest.raises(ValueError, match=r"no scored row in the windows \[4\]"):
        Recovery(users, windows, labels, {"a": scores, "b": unknown}, "b")
    late = np.where(windows == LAST, np.nan, scores)
    assert Recovery(users, windows, labels, {"a": scores, "b": late}, "b", 5).windows[-1] == LAST - 1


def test_figures_are_plain():
    users, windows, labels, rng = rows(4)
    scores = ranked(labels, 0.8, rng)
    told = Recovery(users, windows, labels, {"a": scores, "b": scores}, "b", 20).to_json("a")
    assert set(told) == {
        *("level", "share_recovered", "recovered", "windows_to_recover", "windows_to_90_percent", "gauc")
    }
    assert len(told["gauc"]) == LAST - FIRST + 1
    assert set(told["level"]) == {"value", "low", "high"}
