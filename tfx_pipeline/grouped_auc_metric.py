"""AUC, GAUC and UAUC as a TFMA metric, for those who use TFMA's own Evaluator."""

from collections.abc import Iterable

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2

from keras_models import metrics


class GroupedAUC(metric_types.Metric):
    """`keras_models.metrics.grouped_auc` in TFMA: the keys auc, gauc, uauc, users and users_left_out for each output.

    It is configured by class name, and asks for `user_key` among the features:

        MetricConfig(class_name="GroupedAUC", module="tfx_pipeline.grouped_auc_metric", config='{"task": 0}')

    The rows of one slice are collected as columns and ranked once, so a slice must fit in memory.

    Args:
        user_key: Feature with the user's id.
        task: Position of the output's task in the features `label` and `label_mask`, as this project's examples hold
            them. None: the label is what the model spec's `label_key` says, and all rows count.
    """

    def __init__(self, user_key: str = "user_id", task: int | None = None) -> None:
        super().__init__(
            metric_util.merge_per_key_computations(_grouped_auc_computations), user_key=user_key, task=task
        )


metric_types.register_metric(GroupedAUC)


def _grouped_auc_computations(
    user_key: str = "user_id",
    task: int | None = None,
    eval_config: config_pb2.EvalConfig | None = None,
    model_name: str = "",
    output_name: str = "",
) -> metric_types.MetricComputations:
    features = [user_key] if task is None else [user_key, "label", "label_mask"]
    combiner = _CollectColumns(user_key, task, eval_config, model_name, output_name)
    return [
        metric_types.MetricComputation(
            keys=list(combiner.keys.values()),
            preprocessors=[metric_types.FeaturePreprocessor(feature_keys=features)],
            combiner=combiner,
        )
    ]


_Rows = list[tuple[np.ndarray, np.ndarray]]
"""Accumulator: blocks of users (rows,) and of labels and scores (rows, 2)."""


class _CollectColumns(beam.CombineFn):
    def __init__(
        self,
        user_key: str,
        task: int | None,
        eval_config: config_pb2.EvalConfig | None,
        model_name: str,
        output_name: str,
    ) -> None:
        super().__init__()
        self._user_key, self._task, self._eval_config = user_key, task, eval_config
        self._model_name, self._output_name = model_name, output_name
        self.keys = {
            name: metric_types.MetricKey(name, model_name=model_name, output_name=output_name)
            for name in ("auc", "gauc", "uauc", "users", "users_left_out")
        }

    def create_accumulator(self) -> _Rows:
        return []

    def add_input(self, accumulator: _Rows, element: metric_types.StandardMetricInputs) -> _Rows:
        features = element.features
        user = np.asarray(features[self._user_key]).item()
        if self._task is None:
            label, score = self._label_and_score(element)
        elif not np.ravel(features["label_mask"])[self._task] > 0:
            return accumulator
        else:
            label = np.ravel(features["label"])[self._task].item()
            score = self._score(element)
        accumulator.append((np.array([user]), np.array([[label, score]])))
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Rows]) -> _Rows:
        return [block for accumulator in accumulators for block in accumulator]

    def compact(self, accumulator: _Rows) -> _Rows:
        return [_joined(accumulator)] if len(accumulator) > 1 else accumulator

    def extract_output(self, accumulator: _Rows) -> dict[metric_types.MetricKey, float]:
        users, values = _joined(accumulator) if accumulator else (np.empty(0, np.int64), np.empty((0, 2)))
        result = metrics.grouped_auc(users, values[:, 0], values[:, 1])
        return {key: float(getattr(result, name)) for name, key in self.keys.items()}

    def _label_and_score(self, element: metric_types.StandardMetricInputs) -> tuple[float, float]:
        (columns,) = metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._model_name,
            output_name=self._output_name,
        )
        label, score, _ = columns
        return label.item(), score.item()

    def _score(self, element: metric_types.StandardMetricInputs) -> float:
        scores = element.get_predictions(self._model_name, self._output_name)
        if scores is None or np.size(scores) != 1:
            raise ValueError(
                f"GroupedAUC needs one score a row for output {self._output_name!r}, got {scores}; "
                f"set prediction_keys in the model spec"
            )
        return np.asarray(scores).item()


def _joined(rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
    users, values = zip(*rows, strict=True)
    return np.concatenate(users), np.concatenate(values)
