"""Publishes a blessed model as a version of the model server."""

import json
from pathlib import Path
from typing import Any

from absl import logging
from tfx.components.util import model_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing, ModelEvaluation, PushedModel
from tfx.utils import path_utils

from serving.label_config import LabelConfig
from serving.publisher import publish, published_versions
from tfx_pipeline.components.latest_pushed_model_strategy import MODEL_ID_PROPERTY
from tfx_pipeline.config import METRICS
from tfx_pipeline.example_dataset import example_files
from tfx_pipeline.file_names import EVALUATION_FILE, EXTRA_FOLDER, TRAINING_FILE
from tfx_pipeline.spans import read_schema
from tfx_pipeline.warmup import warmup_requests


@component
def VersionPusher(  # noqa: N802
    model: InputArtifact[Model],
    model_blessing: InputArtifact[ModelBlessing],
    evaluation: InputArtifact[ModelEvaluation],
    examples: InputArtifact[Examples],
    pushed_model: OutputArtifact[PushedModel],
    model_dir: Parameter[str],
    model_name: Parameter[str],
    warmup_rows: Parameter[int],
    models_config: Parameter[str],
    requested_ns: Parameter[int],
    served_model: InputArtifact[PushedModel] = None,
) -> None:
    """Publishes through `serving.publisher` if the model is blessed; marks `pushed_model` as TFX's Pusher does.

    A model that has a version already, because an earlier run was killed after publishing and before it was recorded,
    keeps that version.

    Args:
        model_dir: Folder that the model server watches.
        model_name: Name under which the model is served.
        warmup_rows: Eval examples in each of the requests that warm the version up.
        models_config: The model server's configuration: versions that it names are kept; "" if there is none.
        requested_ns: When the push was asked for; another value each time keeps the push out of the cache.
        served_model: What was pushed before; None if this is the first.
    """
    report = json.loads((Path(evaluation.uri) / EVALUATION_FILE).read_text())
    if not model_utils.is_model_blessed(model_blessing):
        pushed_model.set_int_custom_property("pushed", 0)
        logging.warning("span %s: the model is not pushed: %s", report["span"], "; ".join(report["reasons"]))
        return
    exported, base = Path(path_utils.serving_model_path(model.uri)), Path(model_dir)
    version = _version_of(exported, base, model_name)
    if version is None:
        schema, files = read_schema(Path(examples.uri)), example_files(Path(examples.uri) / "Split-eval")
        manifest = _manifest(report, exported, model_name, served_model)
        requests = warmup_requests(exported, model_name, files, schema, warmup_rows)
        # Read now, not when the run began: a trial may have begun meanwhile.
        pinned = LabelConfig(Path(models_config), model_name).pinned() if models_config else ()
        version = publish(exported, base, manifest, requests, protected=pinned)
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_destination", str(base / model_name / str(version)))
    pushed_model.set_string_custom_property("pushed_version", str(version))
    pushed_model.set_int_custom_property(MODEL_ID_PROPERTY, model.id)


def _version_of(exported: Path, model_dir: Path, model_name: str) -> int | None:
    """The version under which this very training was published before."""
    training = (exported / EXTRA_FOLDER / TRAINING_FILE).read_bytes()  # its time tells it from any other one
    for version in reversed(published_versions(model_dir, model_name)):
        published = model_dir / model_name / str(version) / EXTRA_FOLDER / TRAINING_FILE
        if published.is_file() and published.read_bytes() == training:
            return version
    return None


def _manifest(report: dict[str, Any], exported: Path, model_name: str, served_model: Any) -> dict[str, Any]:
    """The fields of `serving.version_manifest.VersionManifest`."""
    warm_start = json.loads((exported / EXTRA_FOLDER / TRAINING_FILE).read_text())["warm_start"]
    return {
        "model_name": model_name,
        "span": report["span"],
        "newest_event_ms": report["newest_event_ms"],
        "parent_version": int(served_model.get_string_custom_property("pushed_version")) if warm_start else None,
        "tasks": {
            task: {name: figures[name] for name in (*METRICS, "users_left_out")}
            for task, figures in report["tasks"].items()
        },
        "decision": report["decision"],
        "reasons": report["reasons"],
    }
