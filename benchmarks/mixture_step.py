"""How fast MMoE trains in the shape of the census model: ours against PyTorch and DeepCTR.

Run it where the peers are: `.venv-backends/bin/python -m foresight bench mixture-step`.

What we do in a `fit` on TensorFlow, most effective first: the data set holds batches that are ready, in place of rows
that are batched at each step; the gradient of the small table is added up once a step (`benchmarks.census`); all
features share one table; `steps_per_execution=10`; and `jit_compile`, measured both ways. PyTorch has the same table,
ready batches and a fused Adam; DeepCTR has ready batches, `steps_per_execution=10` and `jit_compile` both ways. All
variants have as many parameters as the others, train in float32, and have one thread on one core.
"""

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import click
import numpy as np

from benchmarks.harness import goal, report

BATCH = 1024
STEPS = 40  # a round

# Of the 32 categorical columns of census-income, with one row each for values not seen.
VOCABULARIES = [
    10,
    53,
    48,
    18,
    4,
    25,
    16,
    6,
    11,
    3,
    4,
    7,
    9,
    7,
    7,
    52,
    38,
    9,
    11,
    10,
    11,
    4,
    5,
    6,
    44,
    44,
    44,
    6,
    4,
    4,
    4,
    3,
]
NUMERIC = 7

OURS = ("ours tensorflow graph", "ours tensorflow xla", "ours jax")
PEERS = (
    "torch modules eager",
    "torch modules compile",
    "torch batched eager",
    "torch batched compile",
    "deepctr graph",
    "deepctr xla",
)

OPTIONS = [
    click.Option(["--rounds"], type=click.IntRange(1), default=9, show_default=True, help="Rounds to interleave.")
]


def run(rounds: int = 9) -> dict[str, Any]:
    """Samples per CPU-second of training steps, each variant in a process and on a core of its own, taking turns.

    Returns:
        What `harness.report` makes of `goals`, and `samples_per_cpu_second` and `parameters` by variant.
    """
    samples, parameters = measure(rounds)
    result = report("mixture-step", _goals(samples), "keras", "tensorflow", "jax", "torch", "deepctr")
    return {
        **result,
        "samples_per_cpu_second": {name: round(statistics.median(values)) for name, values in samples.items()},
        "parameters": parameters,
    }


def goals(rounds: int = 9) -> list[dict[str, Any]]:
    """What `run` reports as goals."""
    return _goals(measure(rounds)[0])


def _goals(samples: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Ratios round by round: the best of our variants, and of those on TensorFlow, against the peers' best."""

    def best(names: tuple[str, ...]) -> str:
        return max((name for name in samples if name in names), key=lambda name: statistics.median(samples[name]))

    found, peer = [], best(PEERS)
    for names in (OURS, OURS[:2]):
        ours = best(names)
        ratios = [mine / theirs for mine, theirs in zip(samples[ours], samples[peer], strict=True)]
        found.append(goal(f"MMoE step, samples per CPU-second, {ours} / {peer}", ratios, ">=", 1.3))
    return found if found[0]["name"] != found[1]["name"] else found[:1]


def measure(rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Samples per CPU-second of each variant, one figure a round, and the number of each one's parameters.

    Raises:
        click.UsageError: If a peer or a backend isn't installed.
    """
    missing = [name for name in ("jax", "torch", "deepctr", "tf_keras") if not importlib.util.find_spec(name)]
    if missing:
        raise click.UsageError(f"{', '.join(missing)} not installed here; run this with .venv-backends (`make bench`)")
    samples: dict[str, list[float]] = {name: [] for name in OURS + PEERS}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_Worker(name)) for name in samples}
        parameters = {name: worker.answer()["parameters"] for name, worker in workers.items()}
        for _ in range(rounds):
            for name, worker in workers.items():
                samples[name].append(BATCH * STEPS / worker.ask()["cpu_seconds"])
    return samples, parameters


class _Worker(contextlib.AbstractContextManager):
    """A process that trains one variant, a round each time it is asked."""

    def __init__(self, name: str) -> None:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
        environment = {**os.environ, **one_thread, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        if name.startswith("ours"):
            environment["KERAS_BACKEND"] = name.split()[1]
        self.name = name
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "benchmarks.mixture_step", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )
        self.requests, self.answers = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)

    def ask(self) -> dict[str, Any]:
        """Sends a request and waits for its answer."""
        self.requests.write("\n")
        self.requests.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        for line in self.answers:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(
            f"{self.name!r} ended with exit status {self.process.wait()}; "
            f"`python -m benchmarks.mixture_step {self.name!r}` shows why"
        )

    def __exit__(self, *error: Any) -> None:
        self.requests.close()
        self.answers.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(name: str) -> None:
    """What a worker does: builds the variant, compiles it in a first round, then trains a round for each line read."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    epoch, parameters = _trainer(name)
    epoch()
    print(json.dumps({"parameters": parameters}), flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        loss = epoch()
        print(json.dumps({"cpu_seconds": time.process_time() - started, "loss": loss}), flush=True)


def _trainer(name: str) -> tuple[Callable[[], float], int]:
    kind, _, variant = name.partition(" ")
    generator = np.random.default_rng(0)
    data = {
        "ids": generator.integers(VOCABULARIES, size=(BATCH * STEPS, len(VOCABULARIES)), dtype=np.int32),
        "numeric": generator.normal(size=(BATCH * STEPS, NUMERIC)).astype(np.float32),
        "labels": generator.integers(2, size=(BATCH * STEPS, 2)).astype(np.float32),
    }
    if kind == "deepctr":
        from benchmarks.peers import mixture_deepctr

        return mixture_deepctr.trainer(variant, data, VOCABULARIES, BATCH)
    # Each feature has a range of one table.
    data["ids"] += np.cumsum([0, *VOCABULARIES[:-1]], dtype=np.int32)
    if kind == "torch":
        from benchmarks.peers import mixture_torch

        return mixture_torch.trainer(variant, data, sum(VOCABULARIES), BATCH)
    return _our_trainer(data, xla=variant != "tensorflow graph")


def _our_trainer(data: dict[str, Any], xla: bool) -> tuple[Callable[[], float], int]:
    import keras

    from benchmarks.census import build_model, compile_model

    keras.utils.set_random_seed(0)
    model = build_model("mmoe", sum(VOCABULARIES), len(VOCABULARIES), NUMERIC)
    compile_model(model, jit_compile=xla)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Batches that are ready, so that a step's data is one copy.
        arrays = {name: array.reshape(-1, BATCH, array.shape[1]) for name, array in data.items()}
        inputs = (arrays["ids"], arrays["numeric"])
        dataset = tf.data.Dataset.from_tensor_slices((inputs, arrays["labels"]))
        options: dict[str, Any] = {"x": dataset}
    else:
        inputs = (data["ids"], data["numeric"])
        options = {"x": inputs, "y": data["labels"], "batch_size": BATCH, "shuffle": False}
    return lambda: model.fit(**options, epochs=1, verbose=0).history["loss"][-1], model.count_params()


if __name__ == "__main__":
    serve(sys.argv[1])
