"""ExampleValidator that stops the pipeline."""

from pathlib import Path
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import types
from tfx.components import ExampleValidator
from tfx.components.example_validator import executor
from tfx.dsl.components.base import executor_spec
from tfx.proto.orchestration import execution_result_pb2
from tfx.types import artifact_utils, standard_component_specs


class InvalidExamplesError(ValueError):
    """Examples that don't fit the schema."""


class _Executor(executor.Executor):
    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> execution_result_pb2.ExecutorOutput:
        output = super().Do(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict[standard_component_specs.ANOMALIES_KEY])
        found = []
        for split in artifact_utils.decode_split_names(artifact.split_names):
            path = Path(artifact_utils.get_split_uri([artifact], split)) / executor.DEFAULT_FILE_NAME
            found += describe_anomalies(split, anomalies_pb2.Anomalies.FromString(path.read_bytes()))
        if found:
            raise InvalidExamplesError(
                f"the examples of span {artifact.span} don't fit the schema; nothing was trained:\n" + "\n".join(found)
            )
        return output


class StrictExampleValidator(ExampleValidator):
    """TFX's ExampleValidator, which only records what it finds, made to fail where it finds something.

    The error names each feature, what is wrong with it and in which split.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(_Executor)


def describe_anomalies(split: str, anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """One line for each anomaly, such as "  label_mask (train): Unexpectedly high value: 2>1"."""
    lines = [f"  {name} ({split}): {info.description}" for name, info in sorted(anomalies.anomaly_info.items())]
    if anomalies.HasField("dataset_anomaly_info"):
        lines.append(f"  the {split} examples as a whole: {anomalies.dataset_anomaly_info.description}")
    return lines
