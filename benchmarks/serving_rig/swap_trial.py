"""Versions swapped while a caller ranks without pause."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness import figure, goal
from benchmarks.serving_rig.caller import Caller
from benchmarks.serving_rig.rig import ServingRig
from benchmarks.serving_rig.swap import Swap

_CALM_S = 1.0
_LOOK_S = 0.02
_STALLED_S = 60.0


def swap_trial(
    rig: ServingRig, caller: Caller, requests: int, swaps: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """At least `requests` rankings in one closed loop, and `swaps` swaps spread over them.

    "Before" is all rankings that overlap no swap, from the beginning of the push to the end of the promotion.

    Returns:
        Goals, figures, and what goes into the report as it is: the first errors.
    """
    caller.begin("rank_on")
    _wait(caller, 50)
    begin_s, done = time.time(), []
    for number in range(swaps):
        time.sleep(_CALM_S)
        _wait(caller, round((number + 0.5) * requests / swaps))
        done.append(rig.swap())
    time.sleep(_CALM_S)
    _wait(caller, requests)
    seconds = time.time() - begin_s
    caller.stop()
    return judged(caller.finish(), done, seconds)


def _wait(caller: Caller, count: int) -> None:
    seen, since = -1, time.monotonic()
    while caller.count < count:
        if caller.count != seen:
            seen, since = caller.count, time.monotonic()
        elif time.monotonic() - since > _STALLED_S:
            raise RuntimeError(f"no ranking was answered for {_STALLED_S:g} s, after {seen} of {count}")
        time.sleep(_LOOK_S)


def judged(
    found: dict[str, Any], swaps: Sequence[Swap], seconds: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """What `swap_trial` returns, of what the caller found, the swaps, and the seconds that all took."""
    total, errors = len(found["begin_s"]), found["errors"]
    ms = 1000 * (found["end_s"] - found["begin_s"])

    def overlapping(begin: str, end: str) -> np.ndarray:
        chosen = np.zeros(total, bool)
        for swap in swaps:
            chosen |= (found["begin_s"] < getattr(swap, end)) & (found["end_s"] > getattr(swap, begin))
        return chosen

    parts = {
        "before": ~overlapping("pushed_s", "promoted_s"),
        "while a version is pushed": overlapping("pushed_s", "appeared_s"),
        "during a swap": overlapping("appeared_s", "unloaded_s"),
        "while a version loads": overlapping("loading_s", "unloaded_s"),
        "while rooms are promoted": overlapping("unloaded_s", "promoted_s"),
    }
    p99 = {part: float(np.percentile(ms[chosen], 99)) for part, chosen in parts.items() if chosen.any()}
    name = f"{total:,} rankings with {len(swaps)} swaps"
    goals = [
        goal(f"errors in {name}", [len(errors)], "<=", 0),
        goal("p99 of rankings during a swap / before", [p99["during a swap"] / p99["before"]], "<=", 1.5),
    ]
    figures = [figure(f"ms of a ranking, {part}, p50", [float(np.median(ms[parts[part]]))]) for part in p99]
    figures += [figure(f"ms of a ranking, {part}, p99", [value]) for part, value in p99.items()]
    figures += [
        figure(f"seconds for {name}", [seconds]),
        figure("share of rankings with rooms that had no vector", [float(np.mean(found["by_default"] > 0))]),
        figure("versions that answered", [len(set(found["versions"][found["versions"] >= 0].tolist()))]),
        figure("seconds from a version's appearance to available", [s.available_s - s.appeared_s for s in swaps]),
        figure("seconds that a version was seen to load", [s.available_s - s.loading_s for s in swaps]),
        figure("seconds to promote a version", [s.promoted_s - s.unloaded_s for s in swaps]),
    ]
    return goals, figures, {"errors": errors[:10]}
