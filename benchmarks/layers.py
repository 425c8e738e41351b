"""How fast the layers are against PyTorch and DeepCTR, in turn in one run, one thread each (from .venv-backends).

Live shape: 12 metrics, 20 steps in, 5 out, width 64, 4 heads, 2 layers, FFN 64 (52,229 parameters and RevIN's 24),
dropout 0, float32. Ours is `StatisticForecaster.forecast` as a TensorFlow graph, compiled by XLA, and on the JAX
backend; PyTorch's are written like the authors' code and lean, eager and compiled. All hold the same weights; their
forecasts and gradients are compared before anything is timed. Each framework is a process; all run on the same core.
"""

import importlib
import itertools
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.harness import goal, report
from benchmarks.peers.worker import Worker, serve

STEPS, METRICS, HORIZON, WIDTH, LAYERS, HEADS = 20, 12, 5, 64, 2, 4
BATCH, CANDIDATES = 1024, 300
_BURST = {"step": 3, "forward": 8}
_OTHERS = ("mixture_step", "embedding_step")  # modules beside this one with goals of their own
_MODULE = "benchmarks.layers"
_PEER = "benchmarks.peers.itransformer_torch"

OPTIONS: list[click.Parameter] = [
    click.Option(["--rounds"], type=click.IntRange(1), default=15, show_default=True, help="Bursts of each variant."),
    click.Option(["--only-forecaster"], is_flag=True, help="Leave out the mixture of experts and the embeddings."),
]


def run(rounds: int = 15, only_forecaster: bool = False) -> dict[str, Any]:
    """All goals: the forecaster's step and forward pass, the mixture's step, the embeddings' growth.

    The report holds beside the goals `milliseconds`: of each variant the median CPU and wall time of one call.
    """
    goals, milliseconds = forecaster(rounds)
    for name in () if only_forecaster else _OTHERS:
        goals += importlib.import_module(f"benchmarks.{name}").goals()
    names = ("keras", "tensorflow", "jax", "torch", "deepctr", "numpy")
    return {**report("layers", goals, *names), "milliseconds": milliseconds}


def forecaster(rounds: int) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Goals (a) and (b), and the median milliseconds of each variant.

    Every round runs a burst of each variant; a round's ratio is of our best variant to PyTorch's best one, both being
    those with the least median over all rounds.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})  # inherited by the workers: one core is one thread, whatever a library thinks
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "reference.npz")
            np.savez(path, allow_pickle=False, **_reference())
            environment = {"LAYERS_REFERENCE": path}
            with (
                Worker(_MODULE, path, environment={**environment, "KERAS_BACKEND": "tensorflow"}) as tensorflow,
                Worker(_MODULE, path, environment={**environment, "KERAS_BACKEND": "jax"}) as jax,
                Worker(_PEER, path, environment=environment) as torch,
            ):
                times = _interleaved((tensorflow, jax, torch), rounds)
    finally:
        os.sched_setaffinity(0, cores)
    goals = []
    for clock in ("cpu", "wall"):
        step = _ratios(times, "step", clock, faster=True)
        forward = _ratios(times, "forward", clock, faster=False)
        goals.append(goal(f"forward+backward of {BATCH}: samples/s over PyTorch's best, {clock} time", step, ">=", 2.0))
        goals.append(goal(f"forward of {CANDIDATES}: time over PyTorch's best, {clock} time", forward, "<=", 0.6))
    milliseconds = {
        variant: {
            clock: round(1e3 * statistics.median(itertools.chain(*bursts[clock])), 2) for clock in ("cpu", "wall")
        }
        for variant, bursts in times.items()
    }
    return goals, milliseconds


def _reference() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "series": generator.gamma(0.5, 20, (BATCH, STEPS, METRICS)).astype(np.float32),
        "target": generator.gamma(0.5, 20, (BATCH, HORIZON, METRICS)).astype(np.float32),
        **weights(generator),
    }


def weights(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights under names that each side maps to its own; kernels are (inputs, outputs)."""
    shapes: dict[str, tuple[int, ...]] = {"scale": (METRICS,), "offset": (METRICS,)}

    def dense(name: str, inputs: int, outputs: int) -> None:
        shapes.update({f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)})

    dense("embedding", STEPS, WIDTH)
    for i in range(LAYERS):
        dense(f"{i}/projection", WIDTH, 3 * WIDTH)
        for name in ("attention_output", "hidden", "output"):
            dense(f"{i}/{name}", WIDTH, WIDTH)
        for name in ("norm1", "norm2"):
            shapes.update({f"{i}/{name}/gamma": (WIDTH,), f"{i}/{name}/beta": (WIDTH,)})
    shapes.update({"norm/gamma": (WIDTH,), "norm/beta": (WIDTH,)})
    dense("projection", WIDTH, HORIZON)
    about_one = ("gamma", "scale")
    return {
        name: (
            (1.0 if name.endswith(about_one) else 0.0)
            + generator.normal(size=shape) * (shape[0] ** -0.5 if len(shape) == 2 else 0.1)
        ).astype(np.float32)
        for name, shape in shapes.items()
    }


def _interleaved(workers: tuple[Worker, ...], rounds: int) -> dict[str, dict[str, list[list[float]]]]:
    """Variant -> clock -> seconds of each call, a list a round."""
    times: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: {"cpu": [], "wall": []})
    for _ in range(rounds):
        for task, repeats in _BURST.items():
            for worker in workers:
                for variant in worker.variants:
                    if variant.startswith(task):
                        for clock, seconds in worker.time(variant, repeats).items():
                            times[variant][clock].append(seconds)
    return dict(times)


def _ratios(times: dict[str, dict[str, list[list[float]]]], task: str, clock: str, faster: bool) -> list[float]:
    """A ratio a round of medians: PyTorch's time over ours (`faster`), or ours over PyTorch's."""
    rounds = {name: [statistics.median(burst) for burst in bursts[clock]] for name, bursts in times.items()}
    sides = [
        min((name for name in rounds if name.startswith(f"{task} {side}")), key=lambda n: statistics.median(rounds[n]))
        for side in ("ours", "PyTorch")
    ]
    pairs = zip(rounds[sides[0]], rounds[sides[1]], strict=True)
    return [theirs / ours if faster else ours / theirs for ours, theirs in pairs]


def _serve_ours(path: str) -> None:
    """Times our variants on the backend that KERAS_BACKEND names."""
    import keras

    from keras_models.statistic_forecaster import StatisticForecaster

    reference = dict(np.load(path))
    model = StatisticForecaster(HORIZON, WIDTH, LAYERS, HEADS, dropout=0.0)
    steps = STEPS + HORIZON
    model.build({"statistic_sequence": (None, steps, METRICS), "statistic_mask": (None, steps)})
    names = [_neutral(weight.path.split("/", 1)[-1]) for weight in model.trainable_weights]
    for weight, name in zip(model.trainable_weights, names, strict=True):
        weight.assign(reference[name])
    backend = keras.backend.backend()
    build = _tensorflow_variants if backend == "tensorflow" else _jax_variants
    variants: dict[str, Any] = {}
    for label, step, forward in build(model, reference):
        gradients = dict(zip(names, (np.asarray(g) for g in step()[1]), strict=True))
        check(label, np.asarray(forward()), gradients)
        variants[f"step ours, {label}"] = step
        variants[f"forward ours, {label}"] = forward
    serve(variants)


def check(label: str, forecast: np.ndarray, gradients: dict[str, np.ndarray]) -> None:
    """Compares with what the first worker to come here stored: relative to the largest, 1e-5 and gradients 1e-4.

    Raises:
        ValueError: they differ; a benchmark of different functions is none.
    """
    path = Path(os.environ["LAYERS_REFERENCE"]).with_name("expected.npz")
    if not path.exists():
        np.savez(path, allow_pickle=False, forecast=forecast, **gradients)
        return
    expected = dict(np.load(path))
    for name, got, tolerance in [("forecast", forecast, 1e-5), *((n, g, 1e-4) for n, g in gradients.items())]:
        difference = np.abs(got - expected[name]).max() / np.abs(expected[name]).max()
        if not difference <= tolerance:
            raise ValueError(f"{label}: {name} differs by {difference:.1e} of its largest value, allowed {tolerance}")


def _neutral(path: str) -> str:
    """Our weight's path as a name of `weights`."""
    replaced = {
        "encoder/encoder_layer_": "",
        "encoder/series_embedding": "embedding",
        "encoder/last_normalization": "norm",
        "attention_normalization": "norm1",
        "output_normalization": "norm2",
        "output_layer": "output",
    }
    for ours, neutral in replaced.items():
        path = path.replace(ours, neutral)
    return path.removeprefix("normalization/")


def _tensorflow_variants(model: Any, reference: dict[str, np.ndarray]) -> list[tuple[str, Any, Any]]:
    import tensorflow as tf

    series, target = tf.constant(reference["series"]), tf.constant(reference["target"])
    weights = model.trainable_weights

    def step(series: Any, target: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model.forecast(series, None, training=True)[0] - target))
        return loss, tape.gradient(loss, [weight.value for weight in weights])

    def build(label: str, jit: bool) -> tuple[str, Any, Any]:
        compiled_step = tf.function(step, jit_compile=jit)
        compiled_forward = tf.function(lambda x: model.forecast(x, None)[0], jit_compile=jit)
        candidates = series[:CANDIDATES]
        return label, lambda: compiled_step(series, target), lambda: compiled_forward(candidates).numpy()

    return [build("TensorFlow graph", False), build("TensorFlow jit", True)]


def _jax_variants(model: Any, reference: dict[str, np.ndarray]) -> list[tuple[str, Any, Any]]:
    import jax
    import keras

    series, target = jax.numpy.asarray(reference["series"]), jax.numpy.asarray(reference["target"])
    weights = model.trainable_weights
    values = [weight.value for weight in weights]

    def forecast(values: Any, series: Any, training: bool) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
            return model.forecast(series, None, training=training)[0]

    step = jax.jit(jax.value_and_grad(lambda v, x, y: jax.numpy.mean(jax.numpy.square(forecast(v, x, True) - y))))
    forward = jax.jit(lambda v, x: forecast(v, x, False))
    candidates = series[:CANDIDATES]
    return [
        (
            "JAX jit",
            lambda: jax.block_until_ready(step(values, series, target)),
            lambda: np.asarray(forward(values, candidates)),
        )
    ]


if __name__ == "__main__":
    _serve_ours(sys.argv[1])
