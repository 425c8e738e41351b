"""How fast the simulator writes the demo's day."""

import tempfile
from pathlib import Path
from typing import Any

from beam_transforms.sources.simulator import PRESETS, simulate
from benchmarks.harness import goal, report

_RUNS = 5


def run() -> dict[str, Any]:
    """Events per CPU-second, set-up and writing included, over five runs of the preset `demo`."""
    samples = []
    for _ in range(_RUNS):
        with tempfile.TemporaryDirectory() as folder:
            samples.append(simulate(PRESETS["demo"], Path(folder) / "demo").events_per_cpu_second)
    return report("simulator", [goal("events per CPU-second", samples, ">=", 200_000)], "numpy", "pyarrow")
