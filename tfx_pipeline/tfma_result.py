"""Writes an evaluation in TensorFlow Model Analysis' format, for its viewers and `tfma.load_eval_result`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import json_format
from tensorflow_model_analysis import version
from tensorflow_model_analysis.proto import config_pb2, metrics_for_slice_pb2

from tfx_pipeline.config import METRICS


def write_tfma_result(
    folder: Path, tasks: Mapping[str, Mapping[str, Any]], model_location: str, data_location: str
) -> None:
    """Writes `eval_config.json` and `metrics-00000-of-00001.tfrecord`: the overall slice, an output a task.

    Args:
        folder: Where to.
        tasks: Task -> figures, from `tfx_pipeline.evaluation.evaluate`. Figures that aren't defined are left out.
        model_location: Shown by viewers.
        data_location: Shown by viewers.
    """
    config = config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                signature_name="serving_examples",
                label_keys={task: f"label_{task}" for task in tasks},
                prediction_keys={task: task for task in tasks},
            )
        ],
        slicing_specs=[config_pb2.SlicingSpec()],
        metrics_specs=[
            config_pb2.MetricsSpec(
                output_names=[task], metrics=[config_pb2.MetricConfig(class_name=name) for name in METRICS]
            )
            for task in tasks
        ],
    )
    run = config_pb2.EvalRun(
        eval_config=config,
        version=version.VERSION,
        data_location=data_location,
        model_locations={"": model_location},
    )
    (folder / "eval_config.json").write_text(json_format.MessageToJson(run))
    result = metrics_for_slice_pb2.MetricsForSlice()
    for task, figures in tasks.items():
        for metric in METRICS:
            if figures[metric] is None:
                continue
            entry = result.metric_keys_and_values.add()
            entry.key.name, entry.key.output_name = metric, task
            entry.value.double_value.value = figures[metric]
            low, high = figures["interval"][metric]
            if low is not None:
                entry.confidence_interval.lower_bound.double_value.value = low
                entry.confidence_interval.upper_bound.double_value.value = high
    with tf.io.TFRecordWriter(str(folder / "metrics-00000-of-00001.tfrecord")) as writer:
        writer.write(result.SerializeToString())
