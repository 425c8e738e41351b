import math

import grpc
import numpy as np
import pytest

from benchmarks import serving, serving_load
from benchmarks.serving_rig.calls import Calls
from benchmarks.serving_rig.recipe import TINY
from benchmarks.serving_rig.scaling import knee, scaling_law
from benchmarks.serving_rig.swap import Swap
from benchmarks.serving_rig.swap_memory import line_growth
from benchmarks.serving_rig.swap_trial import judged

QUICK = ("--poll-seconds", "0.02")


@pytest.mark.slow
def test_measures_rankings_swaps_and_refreshes_of_a_tiny_model():
    result = serving.run(
        rounds=1, requests=60, swaps=1, refreshes=1, swap_memory=0, recipe=TINY, published=TINY, options=QUICK
    )
    measured = result["goals"] + result["figures"]
    assert all(math.isfinite(one["value"]) for one in measured)
    values = {one["name"]: one["value"] for one in measured}
    assert sum(name.startswith("errors in ") for name in values) == 1 and result["errors"] == []
    assert values["versions that answered"] == 2
    assert values["share of rankings with rooms that had no vector"] == 0
    assert values["seconds to refresh 40 live rooms"] > 0
    sessions = [value for name, value in values.items() if "ms of session of" in name]
    assert len(sessions) == 10 and min(sessions) > 0


@pytest.mark.slow
def test_measures_load_and_overload_of_a_tiny_model():
    result = serving_load.run(seconds=0.5, sweeps=1, overload=4.0, recipe=TINY, options=QUICK, levels=(1, 2, 4))
    values = {one["name"]: one["value"] for one in result["goals"] + result["figures"]}
    assert all(math.isfinite(value) for value in values.values())
    assert values["clients at the knee"] in (1, 2, 4) and values["requests a second at the knee"] > 0
    assert len(result["table"]) == 4 and sum(line.endswith("<- knee") for line in result["table"]) == 1


@pytest.mark.slow
def test_measures_memory_of_a_tiny_model():
    goals, figures, more = serving.memory_trial(TINY, 5)
    assert math.isfinite(goals[0]["value"]) and len(more["megabytes"]) == 1
    assert all(100 < one["value"] < 10_000 for one in figures)


def test_growth_is_that_of_the_line():
    assert line_growth([200.0, 210.0, 220.0]) == pytest.approx(0.1)
    assert line_growth([200.0, 210.0, 190.0, 200.0]) == pytest.approx(-0.03, abs=0.03)
    assert line_growth([200.0]) == 0


def test_the_knee_is_where_more_clients_get_no_more_done():
    assert knee({1: 100.0, 2: 190.0, 4: 300.0, 8: 310.0, 16: 500.0}) == 4
    assert knee({1: 100.0, 2: 190.0}) == 2


def test_the_scaling_law_is_found_again():
    law = scaling_law({n: 100 * n / (1 + 0.1 * (n - 1) + 0.01 * n * (n - 1)) for n in (1, 2, 4, 8, 16)})
    assert law["rate_1"] == pytest.approx(100) and law["contention"] == pytest.approx(0.1)
    assert law["clients_at_peak"] == pytest.approx(math.sqrt(0.9 / 0.01))
    assert scaling_law({1: 100.0, 2: 200.0, 4: 400.0})["clients_at_peak"] is None


def test_rankings_are_told_apart_by_what_they_overlap():
    begin = np.arange(0.0, 10.0, 0.1)  # each takes 50 ms, and 100 ms while the old version is still there
    swap = Swap(2, pushed_s=4.01, appeared_s=4.42, loading_s=4.52, available_s=4.8, unloaded_s=4.94, promoted_s=6.03)
    slow = (begin + 0.05 > 4.42) & (begin < 4.94)
    found = {"begin_s": begin, "end_s": begin + np.where(slow, 0.1, 0.05), "errors": []}
    found |= {"versions": np.where(begin < 6, 1, 2), "by_default": np.zeros(100)}
    goals, figures, _ = judged(found, [swap], 10.0)
    assert [one["value"] for one in goals] == [0, pytest.approx(2.0)]
    values = {one["name"]: one["value"] for one in figures}
    assert values["ms of a ranking, before, p99"] == pytest.approx(50)
    assert values["seconds to promote a version"] == pytest.approx(1.09)


def test_every_request_that_is_due_is_sent_and_told_of(monkeypatch):
    class Call:
        def add_done_callback(self, callback):
            callback(self)

        def code(self):
            return grpc.StatusCode.RESOURCE_EXHAUSTED

    class Stub:
        def future(self, message, timeout):
            return Call()

    calls = object.__new__(Calls)
    calls._stubs, calls._messages = [Stub()], {"rank": b""}
    found = calls.open_loop([(100.0, 0.1), (1000.0, 0.1)], "rank")
    due = found["due_s"]
    assert len(due) == 111 and np.count_nonzero(due <= 0.1001) == 11 and due.max() == pytest.approx(0.2)
    assert (found["sent_s"] >= due).all() and set(found["codes"]) == {"RESOURCE_EXHAUSTED"}
