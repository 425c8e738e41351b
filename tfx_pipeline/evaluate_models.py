"""The evaluation of a candidate on a span's eval examples, from files to files. Needs TensorFlow and no TFX."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from beam_transforms.schema import RankingSchema
from tfx_pipeline.config import GateConfig
from tfx_pipeline.evaluation import evaluate
from tfx_pipeline.example_dataset import example_files
from tfx_pipeline.file_names import (
    EVALUATION_FILE,
    EXTRA_FOLDER,
    FORECAST_FIGURES,
    PREDICTIONS_FILE,
    TRAINING_FILE,
)
from tfx_pipeline.gate import decide
from tfx_pipeline.scoring import ExportedModel, ModelUnusableError, score_models
from tfx_pipeline.spans import read_manifest, read_schema
from tfx_pipeline.tfma_result import write_tfma_result


def evaluate_models(
    *, examples: Path, candidate: Path, baseline: Path | None, gate: GateConfig, batch_size: int, folder: Path
) -> dict[str, Any]:
    """Scores candidate and baseline on the same examples, decides, and writes evaluation.json, predictions.parquet and
    TFMA's result.

    A baseline that doesn't load, has another signature or gives scores that aren't finite is no baseline: the reason
    goes into the report and the candidate is judged by value.

    Args:
        examples: Folder of one span's examples with `schema.json`, `manifest.json` and the split `Split-eval`.
        candidate: SavedModel.
        baseline: SavedModel that is served; None if there is none.
        gate: What the candidate must show.
        batch_size: Examples scored at once.
        folder: Where to write.

    Returns:
        What evaluation.json holds: span, newest_event_ms, rows, tasks, the training's `FORECAST_FIGURES`, baseline,
        decision, reasons and notes.

    Raises:
        ModelUnusableError: If the candidate doesn't load or has another signature.
    """
    schema, manifest = read_schema(examples), read_manifest(examples)
    models = {"candidate": ExportedModel(candidate, schema)}
    no_baseline: str | None = "no model was pushed before"
    if baseline is not None:
        models_baseline, no_baseline = _load_baseline(baseline, schema)
        models |= models_baseline
    predictions = score_models(models, example_files(examples / "Split-eval"), schema, batch_size)
    if "baseline" in models and not all(
        np.isfinite(column).all() for column in predictions.scores["baseline"].values()
    ):
        no_baseline = "the baseline's scores are not all finite numbers"
        predictions = predictions.without("baseline")
    tasks = evaluate(predictions, resamples=gate.resamples, seed=gate.seed)
    decision = decide(tasks, gate, no_baseline)
    report = {
        "span": manifest["span"],
        "newest_event_ms": manifest["newest_event_ms"],
        "rows": predictions.rows,
        "tasks": tasks,
        **_forecast_figures(candidate),
        "baseline": None if no_baseline else str(baseline),
        "decision": decision.decision,
        "reasons": list(decision.reasons),
        "notes": list(decision.notes),
    }
    folder.mkdir(parents=True, exist_ok=True)
    predictions.write_parquet(folder / PREDICTIONS_FILE)
    write_tfma_result(folder, tasks, str(candidate), str(examples))
    (folder / EVALUATION_FILE).write_text(json.dumps(report, indent=2) + "\n")
    return report


def _load_baseline(path: Path, schema: RankingSchema) -> tuple[dict[str, ExportedModel], str | None]:
    try:
        return {"baseline": ExportedModel(path, schema)}, None
    except ModelUnusableError as error:
        return {}, f"the model pushed before can't be compared: {error}"


def _forecast_figures(model: Path) -> dict[str, Any]:
    path = model / EXTRA_FOLDER / TRAINING_FILE
    report = json.loads(path.read_text()) if path.exists() else {}
    return {name: report.get(name) for name in FORECAST_FIGURES}
