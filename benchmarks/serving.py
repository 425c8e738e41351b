"""The served ranker: 300 rooms ranked, versions swapped under requests, 10,000 rooms refreshed, memory over swaps.

The model has the demo's schema and settings, with random weights. The store holds 10,000 live rooms. Server, caller and
this process are three processes on the same cores. Rankings in turn, in one run: (a) `serving_default` from raw
features, (b) `rank` with stored vectors, (c) a bare session's call of `rank` in this process, (d) a call that computes
nothing. Swaps are checkpoint pushes, each followed by the room side's promotion, while one caller ranks without pause.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.harness import figure, goal, report
from benchmarks.serving_rig.caller import Caller
from benchmarks.serving_rig.model_times import ModelTimes
from benchmarks.serving_rig.recipe import DEMO, MODEL_NAME, PUBLISHED, Recipe
from benchmarks.serving_rig.rig import ServingRig
from benchmarks.serving_rig.swap_memory import memory_trial
from benchmarks.serving_rig.swap_trial import swap_trial

OPTIONS: list[click.Parameter] = [
    click.Option(["--rounds"], type=click.IntRange(1), default=20, show_default=True, help="Of the ratios."),
    click.Option(["--requests"], type=click.IntRange(1), default=100_000, show_default=True, help="While swapping."),
    click.Option(["--swaps"], type=click.IntRange(0), default=50, show_default=True, help="Under requests."),
    click.Option(["--refreshes"], type=click.IntRange(1), default=5, show_default=True, help="Of all live rooms."),
    click.Option(["--swap-memory"], type=click.IntRange(0), default=500, show_default=True, help="Swaps for memory."),
]

_BURST = 10
_FEW = 3
_PERCENT = (50, 99)


def run(
    rounds: int = 20,
    requests: int = 100_000,
    swaps: int = 50,
    refreshes: int = 5,
    swap_memory: int = 500,
    recipe: Recipe = DEMO,
    published: Recipe = PUBLISHED,
    options: tuple[str, ...] = (),
) -> dict[str, Any]:
    """All goals and figures of serving; 0 swaps leaves a part out.

    Args:
        recipe: What is served.
        published: A model whose time alone is measured beside it.
        options: Of the local server, but for the part about memory, where it looks for versions all the time.
    """
    parts = [_model_ratio(published, rounds)]
    with ServingRig(recipe, options) as rig, Caller(rig) as caller:
        kind = rig.server.kind
        parts.append(_ratios(rig, caller, rounds))
        parts.append(_refreshes(rig, refreshes))
        if swaps:
            parts.append(swap_trial(rig, caller, requests, swaps))
    if swap_memory:
        parts.append(memory_trial(recipe, swap_memory))
    goals, figures = ([measured for part in parts for measured in part[index]] for index in (0, 1))
    result = report("serving", goals, "tensorflow", "grpcio", "protobuf", "numpy", "lmdb", figures=figures)
    for _, _, more in parts:
        result |= more
    return result | {"server": kind}


def _ratios(rig: ServingRig, caller: Caller, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict]:
    """Goals and figures of a ranking without swaps; all kinds of call take turns."""
    inputs = caller.call("inputs")
    times: dict[str, list[list[float]]] = {}
    with ModelTimes(rig.models / MODEL_NAME / str(rig.versions[0]), inputs) as model:
        calls: dict[str, Callable[[int], list[float]]] = {
            f"session of {signature}, {kind}": partial(model.milliseconds, kind, signature)
            for kind in ("one thread", "as served")
            for signature in inputs
        }
        for kind in ("serving_default", "rank", "null", "read", "ranking"):
            calls[kind] = partial(_latencies, caller, kind)
        for name, call in calls.items():
            call(_BURST)
            times[name] = []
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(call(_BURST))

    def medians(name: str) -> np.ndarray:
        return np.median(times[name], axis=1)

    model_ratio = medians("session of serving_default, one thread") / medians("session of rank, one thread")
    bare = medians("session of rank, as served") + medians("null")
    rooms = rig.recipe.candidates
    goals = [
        goal(f"{rooms} rooms: model time of serving_default / of rank, one thread", model_ratio.tolist(), ">=", 20.0),
        goal(f"{rooms} rooms: p50 of rank / (bare session + null call)", (medians("rank") / bare).tolist(), "<=", 1.5),
    ]
    figures = []
    for name, milliseconds in times.items():
        label = {"ranking": "whole ranking, store read included", "null": "null call", "read": "read of the store"}
        for percent in _PERCENT:
            value = float(np.percentile(np.concatenate(milliseconds), percent))
            figures.append(figure(f"{rooms} rooms: ms of {label.get(name, name)}, p{percent}", [value]))
    return goals, figures, {}


def _model_ratio(recipe: Recipe, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict]:
    """Model time of another recipe, without a server."""
    with tempfile.TemporaryDirectory() as folder:
        recipe.publish(Path(folder))
        inputs = {name: recipe.inputs(name, recipe.candidates) for name in ("serving_default", "rank")}
        with ModelTimes(Path(folder) / "models" / MODEL_NAME / "1", inputs) as model:
            for name in inputs:
                model.milliseconds("one thread", name, 2)
            times = [[model.milliseconds("one thread", name, _FEW) for name in inputs] for _ in range(rounds)]
    medians = np.median(times, axis=2)  # rounds x signatures
    rooms, lengths = recipe.candidates, "sequences of published length"
    ratio = (medians[:, 0] / medians[:, 1]).tolist()
    goals = [goal(f"{rooms} rooms, {lengths}: model time of serving_default / of rank, one thread", ratio, ">=", 20.0)]
    figures = [
        figure(f"{rooms} rooms, {lengths}: ms of session of {name}, one thread, p50", medians[:, column].tolist())
        for column, name in enumerate(inputs)
    ]
    return goals, figures, {}


def _refreshes(rig: ServingRig, refreshes: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict]:
    """Seconds to compute and store the vectors of all rooms after a window in which each one changed."""
    seconds, parts = [], []
    for _ in range(refreshes):
        rig.write_window()
        begin = time.perf_counter()
        done = rig.room_side.refresh()
        seconds.append(time.perf_counter() - begin)
        if done.rooms != rig.recipe.rooms:
            raise RuntimeError(f"{done.rooms} rooms were refreshed, expected {rig.recipe.rooms}")
        parts.append(done)
    goals = [goal(f"seconds to refresh {rig.recipe.rooms:,} live rooms", seconds, "<=", 5.0)]
    figures = [
        figure(f"refresh: seconds spent on {what}", [getattr(part, name) for part in parts])
        for name, what in (("read_s", "reading"), ("forecast_s", "forecasts"), ("write_s", "writing"))
    ]
    return goals, figures, {}


def _latencies(caller: Caller, kind: str, repeats: int) -> list[float]:
    return caller.call("latencies", kind=kind, repeats=repeats)
