from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_pipeline.config import GateConfig
from tfx_pipeline.gate import BLESSED, REJECTED, decide

NO_LOSS = {"value": 0.0, "low": -0.01, "high": 0.01}


def figures(auc: float | None = 0.8, **changes: Any) -> dict[str, Any]:
    of_task = {"positives": 500, "finite": True, "auc": auc, "gauc": 0.7, "uauc": 0.7}
    return of_task | {"difference": dict.fromkeys(("auc", "gauc", "uauc"), NO_LOSS)} | changes


def gate(**changes: Any) -> GateConfig:
    return GateConfig(smallest_value={"auc": {"*": 0.6}}, largest_loss={"gauc": {"*": 0.005}}, **changes)


def test_a_first_model_is_judged_by_value_alone():
    proven_loss = {"auc": NO_LOSS, "gauc": {"value": -0.2, "low": -0.3, "high": -0.1}, "uauc": NO_LOSS}
    decision = decide({"ctr": figures(difference=proven_loss)}, gate(), no_baseline="no model was pushed before")
    assert decision.decision == BLESSED
    assert "judged by value alone: no model was pushed before" in decision.reasons


def test_a_value_below_its_threshold_rejects_and_names_task_metric_and_figures():
    decision = decide({"ctr": figures(0.5999), "ltr": figures(0.6)}, gate(), "first")
    assert decision.decision == REJECTED
    assert decision.reasons == ("ctr auc is 0.5999, below the smallest value 0.6",)


def test_a_threshold_of_a_task_goes_before_that_of_every_task():
    strict = GateConfig(smallest_value={"auc": {"*": 0.6, "gtr": 0.9}})
    assert decide({"ctr": figures(0.85), "gtr": figures(0.95)}, strict, "first").decision == BLESSED
    assert decide({"ctr": figures(0.95), "gtr": figures(0.85)}, strict, "first").decision == REJECTED


@pytest.mark.parametrize(("high", "expected"), [(-0.0051, REJECTED), (-0.0049, BLESSED), (0.001, BLESSED)])
def test_a_loss_rejects_where_the_whole_interval_is_beyond_the_threshold(high, expected):
    difference = {"auc": NO_LOSS, "gauc": {"value": -0.02, "low": -0.04, "high": high}, "uauc": NO_LOSS}
    decision = decide({"ctr": figures(difference=difference), "ltr": figures()}, gate())
    assert decision.decision == expected
    if expected == REJECTED:
        (reason,) = decision.reasons
        assert reason.startswith("ctr gauc changed by -0.0200 against the baseline, 95 % interval -0.0400 to -0.0051")


def test_a_loss_in_a_metric_without_a_threshold_does_not_reject():
    difference = {"auc": {"value": -0.2, "low": -0.3, "high": -0.1}, "gauc": NO_LOSS, "uauc": NO_LOSS}
    assert decide({"ctr": figures(difference=difference)}, gate()).decision == BLESSED


def test_scores_that_are_not_numbers_reject():
    decision = decide({"ctr": figures(), "ltr": figures(None, finite=False)}, gate(), "first")
    assert decision.decision == REJECTED
    assert decision.reasons == ("ltr: the model's scores are not all finite numbers",)


def test_a_task_with_few_positives_is_noted_and_not_judged():
    decision = decide({"ctr": figures(), "ltr": figures(0.3, positives=19)}, gate(), "first")
    assert decision.decision == BLESSED
    assert decision.notes == ("ltr was not judged: 19 positive labels, fewer than 20",)


def test_an_undefined_figure_is_noted_and_not_judged():
    decision = decide({"ctr": figures(), "ltr": figures(None)}, gate(), "first")
    assert decision.decision == BLESSED
    assert decision.notes == ("ltr auc was not judged: it is not defined on these examples",)


def test_a_model_of_which_nothing_could_be_judged_is_rejected():
    decision = decide({"ctr": figures(positives=0)}, gate(), "first")
    assert decision.decision == REJECTED
    assert decision.reasons == ("nothing could be judged",)


def test_an_undefined_interval_proves_no_loss():
    undefined = {"value": None, "low": None, "high": None}
    decision = decide({"ctr": figures(difference=dict.fromkeys(("auc", "gauc", "uauc"), undefined))}, gate())
    assert decision.decision == BLESSED


def test_a_threshold_for_a_task_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"smallest_value: auc has thresholds for \['gtr'\]; the tasks are \['ctr'\]"):
        decide({"ctr": figures()}, GateConfig(smallest_value={"auc": {"gtr": 0.9}}), "first")


@given(auc=st.floats(0, 1), better=st.floats(0, 1), high=st.floats(-1, 1), higher=st.floats(-1, 1))
def test_a_better_model_is_never_rejected_where_a_worse_one_is_blessed(auc, better, high, higher):
    def blessed(auc: float, high: float) -> bool:
        gauc = {"value": high - 0.1, "low": high - 0.2, "high": high}
        return decide({"ctr": figures(auc, difference={"auc": NO_LOSS, "gauc": gauc, "uauc": NO_LOSS})}, gate()).blessed

    assert blessed(max(auc, better), max(high, higher)) or not blessed(auc, high)
