"""The served ranker under load: requests a second with 1 to 64 clients, then three times as many as it can answer.

Requests are prepared ones for 300 rooms, sent by threads of one process that shares the cores with the server. First
closed loops of `rank` with stored vectors: every client asks again as soon as it is answered. The knee is the first
number of clients beyond which twice as many get less than 10 % more done. Then open loops of `serving_default`, as when
vectors are missing: half of what the same number of clients gets answered, three times it, and half again; each request
has 0.5 s. Of `rank`, a message of a megabyte, three times the knee would be more than the caller can send from here.
"""

from typing import Any

import click
import numpy as np

from benchmarks.harness import figure, goal, report
from benchmarks.serving_rig.caller import Caller
from benchmarks.serving_rig.process_statistics import cpu_seconds
from benchmarks.serving_rig.recipe import DEMO, Recipe
from benchmarks.serving_rig.rig import ServingRig
from benchmarks.serving_rig.scaling import knee, scaling_law

OPTIONS: list[click.Parameter] = [
    click.Option(
        ["--seconds"], type=click.FloatRange(0, min_open=True), default=4.0, show_default=True, help="A level."
    ),
    click.Option(["--sweeps"], type=click.IntRange(1), default=3, show_default=True, help="Over all levels."),
    click.Option(
        ["--overload"], type=click.FloatRange(1), default=3.0, show_default=True, help="Times what it answers."
    ),
]

_LEVELS = (1, 2, 4, 8, 16, 32, 64)
_QUICK, _SLOW = "rank", "serving_default"
_CALM = 0.5
_WINDOW_S = 0.5
_LEAST_GOODPUT = 0.5
_LONGEST_RECOVERY_S = 2.0


def run(
    seconds: float = 4.0,
    sweeps: int = 3,
    overload: float = 3.0,
    recipe: Recipe = DEMO,
    options: tuple[str, ...] = (),
    levels: tuple[int, ...] = _LEVELS,
) -> dict[str, Any]:
    """Requests a second and latencies by the number of clients, the knee, and what happens beyond it."""
    with ServingRig(recipe, options) as rig, Caller(rig) as caller:
        caller.call("closed_loop", clients=max(levels), seconds=min(seconds, 2.0), signature=_QUICK)
        rows = [_level(rig, caller, clients, seconds, _QUICK) for _ in range(sweeps) for clients in levels]
        table = {clients: [row for row in rows if row["clients"] == clients] for clients in levels}
        rates = {clients: float(np.median([row["qps"] for row in found])) for clients, found in table.items()}
        at = knee(rates)
        most = _level(rig, caller, at, 2 * seconds, _SLOW)["qps"]
        phases = [(factor * most, 3 * seconds) for factor in (_CALM, overload, _CALM)]
        found = caller.call("open_loop", schedule=phases, signature=_SLOW)
    figures = [figure("clients at the knee", [at]), figure("requests a second at the knee", [rates[at]])]
    for clients, level in table.items():
        for name, unit in (("qps", "requests a second"), ("p50", "ms, p50"), ("p99", "ms, p99")):
            figures.append(figure(f"{clients} clients: {unit}", [row[name] for row in level]))
    every = [row for row in rows if "server_ms" in row]
    if every:
        figures.append(figure("CPU ms of the server for a request", [row["server_ms"] for row in every]))
    figures.append(figure("CPU ms of the caller for a request", [row["caller_ms"] for row in rows]))
    goals, more = _overloaded(found, phases, most)
    result = report("serving-load", goals, "tensorflow", "grpcio", "protobuf", "numpy", figures=[*figures, *more])
    result["scaling_law"] = scaling_law(rates)
    result["table"] = _table(table, at)
    for line in result["table"]:
        click.echo(line, err=True)
    return result


def _level(rig: ServingRig, caller: Caller, clients: int, seconds: float, signature: str) -> dict[str, float]:
    pid = rig.server.pid
    before = cpu_seconds(pid) if pid is not None else 0.0
    found = caller.call("closed_loop", clients=clients, seconds=seconds, signature=signature)
    good, asked = len(found["ms"]), sum(found["codes"].values())
    row = {
        "clients": clients,
        "qps": good / found["seconds"],
        "p50": float(np.percentile(found["ms"], 50)),
        "p99": float(np.percentile(found["ms"], 99)),
        "refused": asked - good,
        "caller_ms": 1000 * found["cpu_s"] / asked,
    }
    if pid is not None:
        row["server_ms"] = 1000 * (cpu_seconds(pid) - before) / asked
    return row


def _overloaded(
    found: dict[str, Any], phases: list[tuple[float, float]], most: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Goals and figures of the three open loops."""
    (_, calm_s), (rate, over_s), (_, rest_s) = phases
    due, ms, codes = found["due_s"], found["ms"], found["codes"]
    good = codes == "OK"
    before, during = due < calm_s, (due >= calm_s) & (due < calm_s + over_s)
    windows = np.floor(due / _WINDOW_S).astype(int)

    def p99(window: int) -> float:
        """Of the answers to what was due in a window; without end if one of them wasn't OK."""
        chosen = windows == window
        return float(np.percentile(ms[chosen], 99)) if chosen.any() and good[chosen].all() else np.inf

    calm = [p99(window) for window in range(round(calm_s / _WINDOW_S))]
    usual = max(value for value in [*calm, 0.0] if np.isfinite(value))
    first, last = round((calm_s + over_s) / _WINDOW_S), round((calm_s + over_s + rest_s) / _WINDOW_S)
    calm_again = next((window for window in range(first, last) if p99(window) <= usual), last)
    refused = during & ~good
    shed = float(np.mean(codes[refused] == "RESOURCE_EXHAUSTED")) if refused.any() else 0.0
    goals = [
        goal("share of RESOURCE_EXHAUSTED in what an overloaded server doesn't answer", [shed], ">=", 0.9),
        goal(
            "answers in time under overload / the most answered without",
            [good[during].sum() / over_s / most],
            ">=",
            _LEAST_GOODPUT,
        ),
        goal("seconds until p99 is what it was", [(calm_again - first) * _WINDOW_S], "<=", _LONGEST_RECOVERY_S),
    ]
    sent = found["sent_s"]
    offered = np.count_nonzero((sent >= calm_s) & (sent < calm_s + over_s)) / over_s
    figures = [
        figure("overload: most requests a second without it", [most]),
        figure("overload: requests a second that were due", [rate]),
        figure("overload: requests a second that were sent", [offered]),
        figure("overload: share answered", [float(np.mean(good[during]))]),
        figure("overload: ms before it, p99", [float(np.percentile(ms[before & good], 99))]),
    ]
    for name, chosen in (("answered", during & good), ("refused", refused)):
        if chosen.any():
            figures += [
                figure(f"overload: ms until {name}, p{p}", [float(np.percentile(ms[chosen], p))]) for p in (50, 99)
            ]
    for code in sorted(set(codes[refused].tolist())):
        figures.append(figure(f"overload: share of {code}", [float(np.mean(codes[during] == code))]))
    return goals, figures


def _table(table: dict[int, list[dict[str, float]]], at: int) -> list[str]:
    lines = ["clients   requests/s   p50 ms   p99 ms   refused"]
    for clients, rows in table.items():
        qps, p50, p99 = (float(np.median([row[name] for row in rows])) for name in ("qps", "p50", "p99"))
        refused = round(sum(row["refused"] for row in rows))
        lines.append(f"{clients:7}{qps:13.0f}{p50:9.1f}{p99:9.1f}{refused:10}{'   <- knee' if clients == at else ''}")
    return lines
