"""ModelConfig: where a model's versions are and which of them are served."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.local_server.serving_error import ServingError, invalid_argument

_LARGEST_VERSION = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One model of the server.

    Attributes:
        base_path: The folder whose sub-folders with a number for a name are the versions.
        policy: "latest": the `latest` newest versions; "all": every version; "specific": those in `specific`.
        labels: Label -> version.
    """

    name: str
    base_path: Path
    policy: str = "latest"
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_proto(cls, proto: Any) -> "ModelConfig":
        """From a tensorflow.serving.ModelConfig.

        Raises:
            ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION if it is not one that can be served.
        """
        if not proto.model_platform:
            raise invalid_argument(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                f"ModelServerConfig::model_platform, model name is {proto.name}"
            )
        if proto.model_platform != "tensorflow":
            raise ServingError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"PlatformConfigMap has no entry for platform {proto.model_platform}",
            )
        if not Path(proto.base_path).is_absolute():
            raise invalid_argument(
                f"Expected model {proto.name} to have an absolute path or URI; got base_path()={proto.base_path}"
            )
        policy = proto.model_version_policy
        return cls(
            name=proto.name,
            base_path=Path(proto.base_path),
            policy=policy.WhichOneof("policy_choice") or "latest",
            latest=max(policy.latest.num_versions, 1),
            specific=tuple(policy.specific.versions),
            labels=dict(proto.version_labels),
        )

    @classmethod
    def from_file(cls, path: Path) -> "list[ModelConfig]":
        """All models of a file that holds a ModelServerConfig as text, as TensorFlow Serving's --model_config_file.

        Raises:
            OSError: The file can't be read.
            ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION if it isn't a configuration that can be served.
        """
        config = model_server_config_pb2.ModelServerConfig()
        try:
            text_format.Parse(path.read_text(), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise invalid_argument(f"{path} is not a ModelServerConfig: {error}") from error
        return [cls.from_proto(model) for model in config.model_config_list.config]

    def aspired_versions(self) -> dict[int, Path]:
        """Version -> folder of the versions on disk that the policy wants to see served.

        Raises:
            OSError: The base path can't be read.
        """
        found = {}
        for child in sorted(self.base_path.iterdir()):
            if re.fullmatch(r"\d+", child.name, re.ASCII) and int(child.name) <= _LARGEST_VERSION:
                found[int(child.name)] = child
        if self.policy == "latest":
            return {version: found[version] for version in sorted(found)[-self.latest :]}
        if self.policy == "specific":
            return {version: path for version, path in found.items() if version in self.specific}
        return found
