"""The gate of the fast path on figures made by hand."""

import math

import numpy as np
import pytest

from keras_models.metrics import auc
from tfx_pipeline.near_real_time.config import StreamGateConfig
from tfx_pipeline.near_real_time.gate import Trailing, auc_standard_error, judge_first, judge_scores, judge_training

CONFIG = StreamGateConfig(fewest_windows=3)


def _figures(auc=0.8, rows=400, positives=200, loss=0.5, finite=True):
    return {"ctr": {"auc": auc, "rows": rows, "positives": positives, "loss": loss, "finite": finite}}


def _trailing(auc=0.8, windows=10, loss=0.5):
    return Trailing({"ctr": auc}, windows, {name: [loss] * windows for name in ("train", "before", "after")})


def _judge(window, trailing=None, good=None, examples=400):
    of_good = (lambda: (good, good)) if good else None
    return judge_scores(window, window, examples, trailing or _trailing(), of_good, CONFIG)


@pytest.mark.parametrize(
    ("window", "good", "blessed", "confirmed"),
    [
        (_figures(0.79), None, True, True),
        (_figures(0.765), None, True, False),  # less than what may be, more than a standard error
        (_figures(0.74), None, True, False),  # beyond largest_fall, but within the standard errors of 400 rows
        (_figures(0.6), _figures(0.79), False, False),
        (_figures(0.6), _figures(0.61), True, False),  # not worse by enough, and not as good
        (_figures(0.6), _figures(0.55), True, True),
        (_figures(0.6), None, True, False),  # there is no other one that would tell a bad model from a bad world
        (_figures(0.6, positives=10), _figures(0.79), True, False),  # too few positives
        (_figures(0.6, positives=395), _figures(0.79), True, False),  # too few negatives
        (_figures(finite=False, auc=None), None, False, False),
        (_figures(loss=3.0), _figures(loss=0.6), False, False),  # the same order, but far off
        (_figures(loss=3.0), _figures(loss=2.0), True, False),
        (_figures(loss=3.0), _figures(loss=3.5), True, True),
    ],
)
def test_a_fall_counts_where_the_last_good_model_does_better(window, good, blessed, confirmed):
    found = _judge(window, good=good)
    assert (found.decision.blessed, found.good) == (blessed, confirmed)
    assert found.decision.reasons


def test_before_enough_windows_only_finite_numbers_are_asked_for():
    assert _judge(_figures(0.1), _trailing(windows=2))[0].blessed
    assert not _judge(_figures(finite=False), _trailing(windows=0))[0].blessed


def test_the_standard_error_is_that_of_samples():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [60, 140])
    found = [auc(labels, rng.exponential(1 + 2 * labels)) for _ in range(500)]  # the case that the formula is of
    assert auc_standard_error(float(np.mean(found)), 60, 140) == pytest.approx(np.std(found), rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "failures"),
    [
        ((0.6, _figures(), 0.6, 400), 0),
        ((3.5, _figures(), 3.0, 400), 2),
        ((3.5, _figures(), 3.0, 10), 0),  # too few examples to compare
        ((math.nan, _figures(), 0.5, 10), 1),
        ((0.5, _figures(), math.inf, 400), 1),
        ((3.5, _figures(loss=3.0), 3.0, 400), 0),  # it was as high before
        ((0.5, _figures(), None, 400), 0),
        ((-3.5, _figures(), 0.5, 400), 1),  # labels that are taken back make the loss fall without end
        ((-0.4, _figures(), 0.5, 400), 0),
    ],
)
def test_what_learning_makes_worse_is_rejected(arguments, failures):
    train, before, after, examples = arguments
    decision = judge_training(train, before, after, examples, _trailing(), CONFIG)
    assert decision.blessed == (failures == 0)
    assert failures == 0 or len(decision.reasons) == failures


def test_a_first_model_needs_windows_labels_and_value():
    enough = {"ctr": 10, "gtr": 12}
    assert "learns from 10 windows" in judge_first(_figures(), {"ctr": 9, "gtr": 9}, CONFIG).reasons[0]
    assert judge_first(_figures(), {"ctr": 30, "gtr": 1}, CONFIG).reasons[0].endswith("judged: 1 with labels of gtr")
    assert "nothing could be judged" in judge_first(_figures(positives=1), enough, CONFIG).reasons[0]
    assert "below the smallest value" in judge_first(_figures(0.5), enough, CONFIG).reasons[0]
    assert judge_first(_figures(0.6), enough, CONFIG).blessed
