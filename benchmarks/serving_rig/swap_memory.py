"""Memory of the server over many swaps."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness import figure, goal
from benchmarks.serving_rig.caller import Caller
from benchmarks.serving_rig.process_statistics import resident_mb
from benchmarks.serving_rig.recipe import Recipe
from benchmarks.serving_rig.rig import ServingRig

_OPTIONS = ("--poll-seconds", "0.02")
_ASKED = 3
_MOST_GROWTH = 0.05


def memory_trial(recipe: Recipe, swaps: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Resident memory after each of `swaps` swaps, each version asked a few times; rooms aren't promoted.

    The growth is that of a line fitted to the last four fifths: what a server takes at first is left out.

    Returns:
        Goals, figures, and what goes into the report as it is: megabytes after every 50th swap.
    """
    with ServingRig(dataclasses.replace(recipe, rooms=recipe.candidates), _OPTIONS) as rig, Caller(rig) as caller:
        if rig.server.pid is None:
            return [], [], {"left_out": "memory: the server's process isn't one of this machine"}
        megabytes = [resident_mb(rig.server.pid)]
        for _ in range(swaps):
            rig.swap(promote=False)
            caller.call("latencies", kind="rank", repeats=_ASKED)
            caller.call("latencies", kind="serving_default", repeats=_ASKED)
            megabytes.append(resident_mb(rig.server.pid))
    growth = line_growth(megabytes[len(megabytes) // 5 :])
    goals = [goal(f"growth of the server's memory over {swaps} swaps, share", [growth], "<=", _MOST_GROWTH)]
    figures = [
        figure(f"MB of the server after {number} swaps", [megabytes[number]])
        for number in sorted({0, swaps // 5, swaps})
    ]
    return goals, figures, {"megabytes": [round(value, 1) for value in megabytes[::50]]}


def line_growth(values: Sequence[float]) -> float:
    """Growth along a straight line fitted to the values, as a share of where it begins."""
    if len(values) < 2:
        return 0.0
    slope, begin = np.polyfit(np.arange(len(values)), values, 1)
    return float(slope * (len(values) - 1) / begin)
