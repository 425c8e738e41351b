"""What TFX's Trainer runs: trains the ranker on one span, starting from the model that is served."""

import gc
import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from beam_transforms.schema import RankingSchema, schema_from_json
from keras_models.export import export_ranker
from keras_models.ranker import LiveRanker
from keras_models.ranker_config import RankerConfig
from tfx_pipeline.config import TrainingConfig
from tfx_pipeline.example_dataset import training_batches
from tfx_pipeline.file_names import EXTRA_FOLDER, RANKER_FILE, TRAINING_FILE, WEIGHTS_FILE
from tfx_pipeline.forecast_accuracy import forecast_accuracy
from tfx_pipeline.ranker_settings import ranker_config

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs


def run_fn(fn_args: "FnArgs") -> None:
    """Trains, exports the SavedModel and, beside it in `assets.extra`, what the next span starts from.

    `fn_args.custom_config` holds "schema", "model" and "training", all in JSON's types.
    """
    settings = fn_args.custom_config
    report = train_and_export(
        schema=schema_from_json(settings["schema"]),
        model=settings["model"],
        training=TrainingConfig(**settings["training"]),
        train_files=_files(fn_args.train_files),
        eval_files=_files(fn_args.eval_files),
        base_model=Path(fn_args.base_model) if fn_args.base_model else None,
        export_to=Path(fn_args.serving_model_dir),
    )
    run_folder = Path(fn_args.model_run_dir)
    run_folder.mkdir(parents=True, exist_ok=True)
    (run_folder / TRAINING_FILE).write_text(json.dumps(report, indent=2) + "\n")
    # The process goes on to evaluation, publishing and the next span; a trained model's graphs take hundreds of MB.
    keras.backend.clear_session()
    gc.collect()


def train_and_export(
    *,
    schema: RankingSchema,
    model: dict[str, Any],
    training: TrainingConfig,
    train_files: Sequence[str],
    eval_files: Sequence[str],
    base_model: Path | None,
    export_to: Path,
) -> dict[str, Any]:
    """Trains one ranker and exports it; all GPUs that there are share each batch.

    Args:
        schema: What examples hold.
        model: Settings of the ranker that aren't the schema's.
        training: How to train.
        train_files: TFRecord files to train on.
        eval_files: TFRecord files on which the forecasts are compared with what happened.
        base_model: Exported model to start from. One with another schema or other settings can't be started from; the
            reason is in the report, and training starts from nothing.
        export_to: Folder for the SavedModel.

    Returns:
        {"trained_ns": time of the export, "warm_start", "cold_start_reason", "steps", "loss": one figure an epoch,
        "forecast_mse": {"model", "mean", "latest"}, or None for a variant without a statistic forecaster,
        "semantic_id_hits": see `SemanticIdForecaster.hit_rates`, "product_hits": see `ProductForecaster.hit_rates`, or
        None for a variant without such a forecaster}.
    """
    keras.utils.set_random_seed(training.seed)
    config = ranker_config(schema, model)
    weights, cold_start_reason = _starting_weights(base_model if training.warm_start else None, config)
    with _strategy().scope():
        ranker = LiveRanker(config)
        if weights is not None:
            ranker.load_weights(weights)
        ranker.compile_defaults(training.learning_rate, _steps_to_an_end(train_files, training))
        # Variables made by the first step would have it traced twice.
        ranker.optimizer.build(ranker.trainable_variables)
    batches = training_batches(train_files, schema, training.batch_size, training.shuffle_examples, training.seed)
    with warnings.catch_warnings():
        # Keras takes the end of the first epoch for a shortage, because it can't know how many examples there are.
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        history = ranker.fit(batches, epochs=training.epochs, shuffle=False, verbose=0)
    forecasts = forecast_accuracy(ranker, eval_files, schema)
    report = {
        "trained_ns": time.time_ns(),
        "warm_start": weights is not None,
        "cold_start_reason": cold_start_reason,
        "steps": int(ranker.optimizer.iterations.numpy()),
        "loss": [float(loss) for loss in history.history["loss"]],
        **forecasts,
    }
    logging.info("trained the ranker: %s", report)
    export_ranker(ranker, export_to)
    extra = export_to / EXTRA_FOLDER
    extra.mkdir(exist_ok=True)
    ranker.save_weights(extra / WEIGHTS_FILE)
    (extra / RANKER_FILE).write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    (extra / TRAINING_FILE).write_text(json.dumps(report, indent=2) + "\n")
    return report


def _starting_weights(base_model: Path | None, config: RankerConfig) -> tuple[Path | None, str | None]:
    """The file to start from, or why there is none."""
    if base_model is None:
        return None, "there is no model to start from"
    extra = base_model / EXTRA_FOLDER
    if not (extra / WEIGHTS_FILE).exists() or not (extra / RANKER_FILE).exists():
        return None, f"{extra} lacks {WEIGHTS_FILE} or {RANKER_FILE}"
    found, wanted = json.loads((extra / RANKER_FILE).read_text()), json.loads(json.dumps(config.to_dict()))
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differing:
        return None, f"the model pushed before is another one; these settings differ: {', '.join(differing)}"
    return extra / WEIGHTS_FILE, None


def _steps_to_an_end(files: Sequence[str], training: TrainingConfig) -> int | None:
    """Steps of all epochs if there are several; one epoch is a piece of a stream, and a stream doesn't end."""
    if training.epochs == 1:
        return None
    examples = tf.data.TFRecordDataset(list(files)).reduce(np.int64(0), lambda count, _: count + 1)
    return training.epochs * math.ceil(int(examples) / training.batch_size)


def _strategy() -> tf.distribute.Strategy:
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def _files(patterns: Sequence[str]) -> list[str]:
    """TFX gives patterns such as `<split>/*`."""
    return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))
