"""What all benchmarks share: goals with their spread, the machine, and the versions of what was measured."""

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_OPERATIONS = {">=": lambda value, goal: value >= goal, "<=": lambda value, goal: value <= goal}


def goal(name: str, samples: Sequence[float], op: str, target: float) -> dict[str, Any]:
    """One goal: the median of `samples`, one a run, against `target`.

    Args:
        name: What is measured, with its unit.
        samples: At least one finite number.
        op: ">=" or "<=".
        target: What the median has to reach.

    Returns:
        name, value (the median), goal, op, met, runs (number of samples), low and high (least and greatest sample).

    Raises:
        ValueError: no samples, or an unknown `op`.
    """
    if not samples:
        raise ValueError(f"goal {name!r} needs at least one sample")
    if op not in _OPERATIONS:
        raise ValueError(f"goal {name!r}: op must be one of {sorted(_OPERATIONS)}, got {op!r}")
    value = statistics.median(samples)
    return {
        "name": name,
        "value": value,
        "goal": target,
        "op": op,
        "met": bool(_OPERATIONS[op](value, target)),
        "runs": len(samples),
        "low": min(samples),
        "high": max(samples),
    }


def figure(name: str, samples: Sequence[float]) -> dict[str, Any]:
    """What is measured without a goal: `name`, value (the median), runs, low and high, as `goal` has them.

    Raises:
        ValueError: no samples.
    """
    measured = goal(name, samples, ">=", 0.0)
    return {key: measured[key] for key in ("name", "value", "runs", "low", "high")}


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GB, and system."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": usable,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
    }


def versions(*distributions: str) -> dict[str, str | None]:
    """Python's version and those of `distributions`; None for one that isn't installed."""
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def report(
    bench: str, goals: Sequence[dict[str, Any]], *distributions: str, figures: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The object that `foresight bench` prints; `distributions` are those whose versions matter."""
    return {
        "bench": bench,
        "goals": list(goals),
        "figures": list(figures),
        "machine": machine(),
        "versions": versions(*distributions),
    }
