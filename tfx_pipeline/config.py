"""What a pipeline run can be told, as typed dataclasses with defaults that work, read from one YAML file."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

METRICS = ("auc", "gauc", "uauc")
"""What a model is judged by, for each task."""

EVERY_TASK = "*"
"""Stands for every task that a threshold doesn't name."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained on one span.

    Attributes:
        epochs: Passes over the span's train examples.
        batch_size: Examples a step, over all GPUs together.
        learning_rate: Of Adam; it stays in a single epoch, and falls to a twentieth along a cosine over several.
        shuffle_examples: Examples held in memory to draw from; the files are interleaved as well.
        seed: Of weights, dropout and shuffling.
        warm_start: Whether weights start from the model that was pushed last.
    """

    epochs: int = 1
    batch_size: int = 1024
    learning_rate: float = 1e-3
    shuffle_examples: int = 20_000
    seed: int = 0
    warm_start: bool = True

    def __post_init__(self) -> None:
        _require_positive(self, "epochs", "batch_size", "learning_rate", "shuffle_examples")


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """What a model must show to be pushed. Thresholds are metric (auc, gauc, uauc) -> task or "*" -> figure.

    Attributes:
        smallest_value: The figure must not be below. Judged on the eval examples' own figure.
        largest_loss: Against the model that was pushed last, on the same examples, the figure may fall by this much. A
            candidate fails where its loss is proven greater, that is, where the whole 95 % interval of the paired
            bootstrap over users lies below minus this figure.
        fewest_positives: A task with fewer positive labels in the eval examples is reported, and not judged.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """

    smallest_value: dict[str, dict[str, float]] = dataclasses.field(default_factory=lambda: {"auc": {EVERY_TASK: 0.55}})
    largest_loss: dict[str, dict[str, float]] = dataclasses.field(
        default_factory=lambda: {"auc": {EVERY_TASK: 0.005}, "gauc": {EVERY_TASK: 0.005}}
    )
    fewest_positives: int = 20
    resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "fewest_positives", "resamples")
        for name in ("smallest_value", "largest_loss"):
            unknown = sorted(set(getattr(self, name)) - set(METRICS))
            if unknown:
                raise ValueError(f"{name} has thresholds for {unknown}; a gate knows the metrics {list(METRICS)}")


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """One pipeline. Paths in a YAML file are relative to the file's folder.

    Attributes:
        examples: Folder with `schema.json` and `Span-<N>/{train,eval}`.
        pipeline_root: Folder for artifacts, metadata store and lock; one pipeline runs in it at a time.
        model_dir: Folder that the model server watches; versions go to `<model_dir>/<model_name>/<version>`.
        model_name: Name under which the model is served.
        models_config: The model server's --model_config_file, where it has one: a push keeps the versions that it
            names, by label or policy, however old they are. None keeps the newest five.
        model: Arguments of `keras_models.ranker.RankerConfig` that aren't the schema's, by name, such as `variant`.
        training: How a model is trained.
        gate: What it must show.
        evaluation_batch_size: Examples scored at once.
        warmup_rows: Eval examples in each of the requests that a version is warmed up with when it is loaded.
    """

    examples: Path = Path("examples")
    pipeline_root: Path = Path("pipeline")
    model_dir: Path = Path("models")
    model_name: str = "live_ranker"
    models_config: Path | None = None
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    gate: GateConfig = dataclasses.field(default_factory=GateConfig)
    evaluation_batch_size: int = 4096
    warmup_rows: int = 32

    def __post_init__(self) -> None:
        _require_positive(self, "evaluation_batch_size", "warmup_rows")
        if not self.model_name or "/" in self.model_name:
            raise ValueError(f"model_name must be the name of a folder, got {self.model_name!r}")


def load_config(path: Path) -> PipelineConfig:
    """Reads a configuration from a YAML file; what it leaves out keeps its default.

    Raises:
        ValueError: If the file is no YAML mapping, a key isn't known or a value has the wrong type; the message names
            the key.
    """
    config = read_config(PipelineConfig, path)
    folder = path.resolve().parent
    return dataclasses.replace(
        config,
        examples=folder / config.examples,
        pipeline_root=folder / config.pipeline_root,
        model_dir=folder / config.model_dir,
        models_config=None if config.models_config is None else folder / config.models_config,
    )


def read_config(kind: Any, path: Path) -> Any:
    """A YAML file as the dataclass `kind`; what it leaves out keeps its default.

    Raises:
        ValueError: If the file is no YAML mapping, a key isn't known or a value has the wrong type; the message names
            the key.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read the configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    return _build(kind, {} if data is None else data, str(path))


def gate_from_json(data: Mapping[str, Any]) -> GateConfig:
    """The inverse of `dataclasses.asdict` on a GateConfig."""
    return _build(GateConfig, data, "gate")


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a positive number, got {value}")


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value`, as YAML gives it, as the type `kind`; `where` is what errors call it."""
    origin = typing.get_origin(kind)
    if origin is types.UnionType:  # with None, which only a key that is left out means
        (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
        return _build(kind, value, where)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        entries = _build(dict[str, Any], value, where)
        unknown = sorted(set(entries) - set(hints))
        if unknown:
            raise ValueError(f"{where}: unknown keys {unknown}; known are {sorted(hints)}")
        arguments = {key: _build(hints[key], entry, f"{where}: {key}") for key, entry in entries.items()}
        try:
            return typing.cast(Any, kind)(**arguments)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where}: expected keys with values, got {value!r}")
        (_, entry_kind) = typing.get_args(kind)
        return {key: _build(entry_kind, entry, f"{where}: {key}") for key, entry in value.items()}
    if kind is Any:
        return value
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where}: expected {'a path' if kind is Path else kind.__name__}, got {value!r}")
