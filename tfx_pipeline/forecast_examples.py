"""Forecasts of a model beside what then happened, for people to look at."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from beam_transforms.schema import RankingSchema
from tfx_pipeline.example_dataset import example_batches


def forecast_examples(
    model: Path, eval_files: list[str], schema: RankingSchema, rooms: int = 3, metrics: int = 2
) -> list[dict[str, Any]]:
    """The last H windows of some busy rooms, forecast from the T - H before them.

    Rooms are the ones with most counts in the first batch of examples, and metrics the ones with most counts there.

    Args:
        model: SavedModel with the signature `forecast`.
        eval_files: TFRecord files of examples.
        schema: What the examples hold.

    Returns:
        For each room and metric {"live_id", "metric", "past": T - H counts, "forecast": H counts, "actual": H counts}.
        Nothing if the model has no statistic forecaster.
    """
    signatures = tf.saved_model.load(str(model)).signatures
    batch = next(iter(example_batches(eval_files, schema, batch_size=8192)), None)
    if batch is None or "forecast" not in signatures:
        return []
    if "statistic_sequence" not in signatures["forecast"].structured_input_signature[1]:
        return []
    horizon, width = schema.horizon, len(schema.metrics)
    sequence, mask = batch["statistic_sequence"].numpy(), batch["statistic_mask"].numpy()
    full = np.flatnonzero(mask.all(axis=1))
    if not len(full):
        return []
    scale = sequence[full].std(axis=(0, 1)) + 1e-6
    busiest = full[np.argsort(-(sequence[full] / scale).sum(axis=(1, 2)), kind="stable")]
    _, first = np.unique(batch["live_id"].numpy()[busiest], return_index=True)
    chosen = busiest[np.sort(first)[:rooms]]
    shown = np.argsort(-(sequence[chosen] > 0).mean(axis=(0, 1)), kind="stable")[:metrics]
    # `forecast` looks at the last T - H steps: moved back by H, it forecasts steps that are already known.
    earlier = np.concatenate([np.zeros_like(sequence[chosen, :horizon]), sequence[chosen, :-horizon]], axis=1)
    earlier_mask = np.concatenate([np.zeros_like(mask[chosen, :horizon]), mask[chosen, :-horizon]], axis=1)
    inputs = {"statistic_sequence": earlier, "statistic_mask": earlier_mask}
    for name in signatures["forecast"].structured_input_signature[1]:
        inputs.setdefault(name, batch[name].numpy()[chosen])  # says nothing to the statistic forecaster
    answer = signatures["forecast"](**{name: tf.constant(values) for name, values in inputs.items()})
    forecast = answer["foresight"].numpy()[:, : horizon * width].reshape(-1, horizon, width)
    return [
        {
            "live_id": int(batch["live_id"].numpy()[row]),
            "metric": schema.metrics[metric].name,
            "past": sequence[row, :-horizon, metric].tolist(),
            "forecast": forecast[place, :, metric].tolist(),
            "actual": sequence[row, -horizon:, metric].tolist(),
        }
        for place, row in enumerate(chosen)
        for metric in shown
    ]
