"""What a pipeline run ended with."""

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class PipelineResult:
    """One run on one span.

    Attributes:
        span: The span that was trained and evaluated on.
        version: Version that was pushed; None if the candidate was rejected.
        decision: "blessed" or "rejected".
        reasons: Why, in sentences.
        notes: What the gate couldn't judge, in sentences.
        tasks: Task -> figures of the candidate on the span's eval examples, as `tfx_pipeline.evaluation.evaluate` gives
            them: auc, gauc, uauc, users_left_out, interval and, with a baseline, difference.
        forecast_mse: "model", "mean", "latest" -> mean squared error on raw counts; None without a forecaster.
        semantic_id_hits: "model" and each rule -> "hit@1" and "hit@10" on the next semantic id; None without a
            forecaster.
        product_hits: "model", "model_at_10" and each rule -> hit rate on the next product's finest category; None
            without a forecaster.
        stages: Component -> wall seconds, in the order in which they ran.
        cached: Components whose outputs came from the cache.
        evaluation: Folder with evaluation.json, predictions.parquet and TFMA's result.
        model: SavedModel of the candidate.
        pushed: Folder of the version that was pushed; None if there is none.
    """

    span: int
    version: int | None
    decision: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    tasks: dict[str, dict[str, Any]]
    forecast_mse: dict[str, float] | None
    semantic_id_hits: dict[str, dict[str, float]] | None
    product_hits: dict[str, float] | None
    stages: dict[str, float]
    cached: tuple[str, ...]
    evaluation: Path
    model: Path
    pushed: Path | None

    def to_json(self) -> dict[str, Any]:
        """The same in JSON's types."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
