"""The promises of the rule, by simulation: users differ, come back, and the rule is asked again and again."""

import math

import numpy as np
import pytest

import serving.canary.comparison
from serving.canary.always_valid import Interval, always_valid_interval, ratio_variance
from serving.canary.config import CanaryConfig
from serving.canary.rule import decide
from serving.canary.side_statistics import SideStatistics
from serving.canary.split import SIDES, CanarySplit

CONFIG = CanaryConfig(
    "test", share=0.5, min_impressions=2000, max_calibration_error=0.2, max_ctr_loss=0.15, alpha=0.1, deadline_s=1e9
)
LOOKS, USERS, IMPRESSIONS = 15, 3000, 3000


def _simulate(seed, effect=1.0, inflation=1.0, stable_inflation=1.0):
    """The action that ends a canary whose CTR is `effect` times the other's and whose scores are `inflation` too high.

    Each look brings IMPRESSIONS impressions of users who come back and like it differently.
    """
    generator = np.random.default_rng(seed)
    liking = generator.beta(2, 6, USERS)
    activity = generator.gamma(1.0, 1.0, USERS)
    users = np.arange(USERS) + 10_000 * seed
    canary = CanarySplit(CONFIG.share, f"simulation {seed}").on_canary(users)
    sides = {name: SideStatistics() for name in SIDES}
    for _ in range(LOOKS):
        who = generator.choice(USERS, IMPRESSIONS, p=activity / activity.sum())
        chance = np.clip(liking[who] * generator.uniform(0.5, 1.5, IMPRESSIONS), 0, 0.95)
        chance = np.where(canary[who], chance * effect, chance)
        clicked = generator.random(IMPRESSIONS) < chance
        for name, here in (("stable", ~canary[who]), ("canary", canary[who])):
            factor = inflation if name == "canary" else stable_inflation
            sides[name].add(users[who][here], np.clip(factor * chance[here], 0, 1), clicked[here])
        decision = decide(CONFIG, sides, 0.0)
        if decision.action != "go_on":
            return decision.action
    return "go_on"


def _rates(runs, **what):
    actions = [_simulate(seed, **what) for seed in range(runs)]
    return {action: actions.count(action) / runs for action in ("promote", "roll_back", "go_on")}


def _allowed(runs, rate=CONFIG.alpha):
    """What a rate that is `rate` in truth stays below in `runs` runs, but for one time in a thousand."""
    return rate + 3.1 * math.sqrt(rate * (1 - rate) / runs)


def _naive(estimate, variance, scale, alpha):
    half = 1.96 * math.sqrt(variance)
    return Interval(estimate, estimate - half, estimate + half)


@pytest.mark.parametrize("runs", [100, pytest.param(800, marks=pytest.mark.slow)])
def test_a_canary_as_good_as_stable_is_hardly_ever_rolled_back(runs):
    rates = _rates(runs)
    assert rates["roll_back"] <= _allowed(runs)
    assert rates["promote"] > 0.5


@pytest.mark.parametrize("runs", [100, pytest.param(800, marks=pytest.mark.slow)])
def test_a_loss_at_the_bound_is_hardly_ever_promoted(runs):
    assert _rates(runs, effect=1 - CONFIG.max_ctr_loss)["promote"] <= _allowed(runs)


@pytest.mark.slow
@pytest.mark.parametrize("inflation", [1 + CONFIG.max_calibration_error, 1 - CONFIG.max_calibration_error])
def test_a_calibration_at_the_bound_is_hardly_ever_promoted_or_rolled_back(inflation):
    rates = _rates(200, inflation=inflation)
    assert rates["promote"] <= _allowed(200)
    assert rates["roll_back"] <= _allowed(200)


@pytest.mark.slow
def test_intervals_of_fixed_size_would_break_the_promise(monkeypatch):
    """The simulation tells a rule that may be asked again and again from one that may not."""
    monkeypatch.setattr(serving.canary.comparison, "always_valid_interval", _naive)
    assert _rates(200)["roll_back"] > 2 * _rates_of_valid_intervals(monkeypatch, 200)


def _rates_of_valid_intervals(monkeypatch, runs):
    monkeypatch.setattr(serving.canary.comparison, "always_valid_interval", always_valid_interval)
    return _rates(runs)["roll_back"]


@pytest.mark.parametrize("inflation", [1.6, 0.5])
def test_a_broken_calibration_is_rolled_back(inflation):
    assert [_simulate(seed, inflation=inflation) for seed in range(8)] == ["roll_back"] * 8


def test_a_large_loss_is_rolled_back():
    assert [_simulate(seed, effect=0.6) for seed in range(8)] == ["roll_back"] * 8


def test_a_new_version_is_not_blamed_for_what_is_wrong_with_both():
    """Labels that come late, or a world that changed, make both sides' predictions too high."""
    actions = [_simulate(seed, inflation=1.6, stable_inflation=1.6) for seed in range(8)]
    assert set(actions) == {"go_on"}


def _sides(stable, canary, fell_back=(0, 0, 0), failed=0, stable_failed=0):
    """Sides from (impressions, clicks, score) of users that are all different."""
    sides = {name: SideStatistics() for name in SIDES}
    given = {"stable": stable, "canary": canary, "fell_back": fell_back}
    given |= {"failed": (failed, 0, 0), "stable_failed": (stable_failed, 0, 0)}
    for name, (impressions, clicks, score) in given.items():
        labels = np.arange(impressions) < clicks
        sides[name].add(np.arange(impressions), np.full(impressions, score), labels)
    return sides


def test_nothing_is_decided_before_there_are_enough_impressions():
    decision = decide(CONFIG, _sides((1999, 400, 0.2), (5000, 10, 0.2)), 0.0)
    assert decision.action == "go_on"
    assert decision.reasons == ("stable has 1,999 of 2,000 impressions that are needed",)


def test_a_canary_that_nobody_clicks_is_rolled_back():
    decision = decide(CONFIG, _sides((5000, 1000, 0.2), (5000, 0, 0.2)), 0.0)
    assert decision.action == "roll_back"
    assert "CTR is certainly lower: it changes by -100.0%" in decision.reasons[0]


def test_a_canary_that_predicts_nothing_is_rolled_back():
    decision = decide(CONFIG, _sides((50_000, 10_000, 0.2), (50_000, 10_000, 0.0)), 0.0)
    assert decision.action == "roll_back"
    assert "calibration is certainly off: predicted / observed clicks 0.000" in decision.reasons[0]


def test_a_good_canary_is_promoted_and_says_why():
    decision = decide(CONFIG, _sides((50_000, 10_000, 0.2), (50_000, 10_000, 0.2)), 0.0)
    assert decision.action == "promote"
    assert decision.reasons[0].startswith("CTR changes by +0.0% (-")
    assert decision.reasons[1].startswith("predicted / observed clicks of the canary: 1.000 (0.9")


def test_users_of_the_canary_count_for_its_ctr_whoever_answered_them():
    """It failed for those who would have clicked least, or most: what is left of it tells nothing of the users."""
    decision = decide(CONFIG, _sides((50_000, 10_000, 0.2), (49_900, 9_980, 0.2), (100, 0, 0.2)), 0.0)
    assert decision.action == "promote" and decision.reasons[0].startswith("CTR changes by -0.2% (")
    assert decision.reasons[1].startswith("predicted / observed clicks of the canary: 1.000"), "its own answers alone"


@pytest.mark.parametrize(
    ("fell_back", "failed", "action"), [(1500, 0, "roll_back"), (0, 1500, "roll_back"), (450, 0, "go_on")]
)
def test_what_the_canary_leaves_undone_counts_against_it(fell_back, failed, action):
    sides = _sides((50_000, 10_000, 0.2), (49_000, 9_800, 0.2), (fell_back, fell_back // 5, 0.2), failed)
    decision = decide(CONFIG, sides, 0.0)
    assert decision.action == action
    said = "failures of more than 1.0% beyond the stable version's aren't ruled out yet"
    assert (said in decision.reasons) == (action == "go_on")


@pytest.mark.parametrize(
    ("fell_back", "failed", "action"), [(0, 1000, "promote"), (1000, 20, "promote"), (1500, 1000, "roll_back")]
)
def test_what_fails_on_both_sides_is_not_the_canarys(fell_back, failed, action):
    """2 % of the requests fail for the stable version."""
    canary = (49_000 - fell_back, (49_000 - fell_back) // 5, 0.2)
    sides = _sides((49_000, 9_800, 0.2), canary, (fell_back, fell_back // 5, 0.2), failed, stable_failed=1000)
    assert decide(CONFIG, sides, 0.0).action == action


def test_nothing_is_promoted_while_outcomes_are_unread():
    sides = _sides((50_000, 10_000, 0.2), (50_000, 10_000, 0.2))
    decision = decide(CONFIG, sides, 0.0, unread="a.jsonl: gone")
    assert (decision.action, decision.reasons[-1]) == ("go_on", "outcomes can't be read: a.jsonl: gone")
    assert decide(CONFIG, sides, CONFIG.deadline_s, unread="a.jsonl: gone").action == "roll_back"
    few = _sides((10, 2, 0.2), (10, 2, 0.2))
    assert decide(CONFIG, few, 0.0, unread="a.jsonl: gone").reasons[-1] == "outcomes can't be read: a.jsonl: gone"


def test_failures_are_seen_before_there_are_enough_impressions():
    assert decide(CONFIG, _sides((900, 200, 0.2), (0, 0, 0.2), (100, 20, 0.2)), 0.0).action == "roll_back"
    assert decide(CONFIG, _sides((900, 200, 0.2), (0, 0, 0.2), (49, 9, 0.2)), 0.0).action == "go_on"


@pytest.mark.parametrize("on_both", [0.0, 0.05])
def test_failures_at_the_bound_are_hardly_ever_rolled_back(on_both):
    generator = np.random.default_rng(0)
    rolled_back = 0
    for seed in range(100):
        sides = {name: SideStatistics() for name in SIDES}
        for _ in range(LOOKS):
            users = generator.integers(0, USERS, IMPRESSIONS) + 10_000 * seed
            drawn, canary = generator.random(IMPRESSIONS), users % 2 == 0
            failed = drawn < on_both + np.where(canary, 0.01, 0)
            parts = {"stable": ~canary & ~failed, "stable_failed": ~canary & failed}
            parts |= {"canary": canary & ~failed, "fell_back": canary & failed}
            for name, here in parts.items():
                sides[name].add(users[here], np.full(here.sum(), 0.2), np.zeros(here.sum()))
            if decide(CONFIG, sides, 0.0).action == "roll_back":
                rolled_back += 1
                break
    assert rolled_back / 100 <= _allowed(100, CONFIG.alpha / 4)


def test_a_canary_that_is_undecided_at_the_deadline_is_rolled_back():
    sides = _sides((3000, 600, 0.2), (3000, 600, 0.2))
    assert decide(CONFIG, sides, CONFIG.deadline_s - 1).action == "go_on"
    decision = decide(CONFIG, sides, CONFIG.deadline_s)
    assert decision.action == "roll_back"
    assert decision.reasons[0] == "not decided within 1e+09 s"
    assert any("isn't ruled out yet" in reason for reason in decision.reasons)


def test_users_that_come_back_widen_the_interval():
    """A hundred impressions of one user tell less than one impression each of a hundred users."""
    generator = np.random.default_rng(0)
    likes = generator.random(400) < 0.3
    ones, many = SideStatistics(), SideStatistics()
    ones.add(np.arange(40_000), np.full(40_000, 0.3), generator.random(40_000) < 0.3)
    many.add(np.repeat(np.arange(400), 100), np.full(40_000, 0.3), np.repeat(likes, 100))
    variances = [ratio_variance(side.sums[:, 2], side.sums[:, 0]) for side in (ones, many)]
    assert variances[1] > 30 * variances[0]
    assert variances[0] == pytest.approx(0.3 * 0.7 / 40_000, rel=0.2)


def test_the_interval_covers_the_truth_at_all_times_at_once():
    generator = np.random.default_rng(1)
    missed = 0
    for _ in range(400):
        samples = generator.normal(size=2000)
        sizes = np.arange(1, 2001)
        means = np.cumsum(samples) / sizes
        intervals = [
            always_valid_interval(mean, 1 / n, 0.1, 0.1) for mean, n in zip(means[::5], sizes[::5], strict=True)
        ]
        missed += any(interval.low > 0 or interval.high < 0 for interval in intervals)
    assert missed / 400 <= _allowed(400)
    assert missed > 0


@pytest.mark.parametrize(
    "arguments", [(0.0, 0.0, 1.0, 0.1), (0.0, 1.0, 0.0, 0.1), (0.0, 1.0, 1.0, 1.0), (0.0, float("nan"), 1.0, 0.1)]
)
def test_an_interval_of_nothing_is_refused(arguments):
    with pytest.raises(ValueError, match="an interval needs"):
        always_valid_interval(*arguments)


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"share": 1.0}, {"alpha": 2}, {"min_impressions": 0}, {"deadline_s": -1}, {"salt": ""}]
)
def test_a_wrong_configuration_is_refused(wrong):
    with pytest.raises(ValueError, match="a canary needs"):
        CanaryConfig(**{"salt": "x"} | wrong)
