import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serving.retry_budget import RetryBudget


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@given(
    steps=st.lists(st.tuples(st.sampled_from(["call", "retry", "wait"]), st.floats(0, 3)), max_size=120),
    ratio=st.floats(0, 0.5),
    burst=st.floats(1, 12),
    per_second=st.floats(0, 4),
)
@settings(phases=(Phase.generate,), max_examples=200)
def test_retries_are_bounded_from_every_moment_on(steps, ratio, burst, per_second):
    clock = Clock()
    budget = RetryBudget(ratio, burst, per_second, clock=clock)
    counts = [(0, 0, 0.0)]  # retries, calls, time
    for what, amount in steps:
        retries, calls, _ = counts[-1]
        if what == "wait":
            clock.now += amount
        elif what == "call":
            budget.note_call()
            calls += 1
        else:
            retries += budget.take()
        counts.append((retries, calls, clock.now))
    retries, calls, now = counts[-1]
    for before, called, then in counts:
        assert retries - before <= burst + ratio * (calls - called) + per_second * (now - then) + 1e-6


def test_a_bucket_that_is_empty_fills_with_calls_and_with_time():
    clock = Clock()
    budget = RetryBudget(ratio=0.25, burst=1, per_second=0.5, clock=clock)
    assert [budget.take(), budget.take()] == [True, False]
    for _ in range(4):
        budget.note_call()
    assert [budget.take(), budget.take()] == [True, False]
    clock.now += 2.0
    assert [budget.take(), budget.take()] == [True, False]


@pytest.mark.parametrize("numbers", [(-0.1, 10, 1), (0.1, 0.5, 1), (0.1, 10, -1), (float("nan"), 10, 1)])
def test_a_wrong_budget_is_refused(numbers):
    with pytest.raises(ValueError, match="a retry budget needs"):
        RetryBudget(*numbers)
