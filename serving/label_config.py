"""LabelConfig: the server's configuration, in which labels point to versions."""

import logging
from collections.abc import Collection
from pathlib import Path

from google.protobuf import text_format

from serving.durable_files import replace_durably
from serving.model_service_client import ModelServiceClient
from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError

_log = logging.getLogger(__name__)

COMING = ("START", "LOADING", "AVAILABLE")
"""States of versions that a label may be on."""


class LabelConfig:
    """Moves labels of one model on a server.

    The server is told by ReloadConfig, which replaces the whole list of its models: what it should serve beside must be
    in the configuration, too.

    Args:
        model_config: The configuration of the model, if the server serves nothing else; or the text file with a
            ModelServerConfig that it was started with (--model_config_file). The file is rewritten, whole or not at
            all, so that a server that polls it, or is started again, keeps the label. Of its comments those at the top
            stay.
        model_name: The model.

    Raises:
        OSError: The file can't be read.
        ValueError: It isn't a ModelServerConfig, or lacks the model, or has a field that would be lost.
    """

    def __init__(self, model_config: api.ModelConfig | Path, model_name: str) -> None:
        self._source, self._model_name = model_config, model_name
        self._read()

    def check(self, label: str, known: Collection[int], kept: Collection[str]) -> None:
        """Raises what `move` would raise before it does anything; arguments are those of `move`."""
        for model in self._read().model_config_list.config:
            gone = {
                other: labelled
                for other, labelled in model.version_labels.items()
                if model.name == self._model_name and other != label and other in kept and labelled not in known
            }
            if gone:
                raise RankingError(
                    "FAILED_PRECONDITION",
                    f"label {label!r} of {model.name} can't be moved: the labels {gone} are served, and the server has "
                    f"unloaded their versions (it has {sorted(known)}); keep labelled versions loaded, by "
                    "model_version_policy { specific { versions: ... } }, or withdraw the labels first",
                )

    def move(
        self, label: str, version: int, known: Collection[int], kept: Collection[str], service: ModelServiceClient
    ) -> None:
        """Points a label to an available version.

        The server refuses labels of versions that are gone: those that nobody is served by are dropped, with a log
        line.

        Args:
            label: The label.
            version: The version.
            known: Versions that the server has or is about to have.
            kept: Labels that are served; none of them is dropped.
            service: The server.

        Raises:
            RankingError: The server doesn't answer, or refuses, or has unloaded the version of a label that is to be
                kept; then the file is as before.
            OSError: The file can't be read or written.
            ValueError: As the constructor.
        """
        self.check(label, known, kept)
        config = self._read()
        for model in config.model_config_list.config:
            if model.name != self._model_name:
                continue
            model.version_labels.pop(label, None)
            _drop_gone(model, known)
            model.version_labels[label] = version
        self._apply(config, service)

    def withdraw(self, label: str, service: ModelServiceClient) -> None:
        """Takes a label away, if it is there, and those of versions that the server has unloaded, with a log line.

        Raises:
            RankingError, OSError, ValueError: As `move`.
        """
        config, known = self._read(), self._known(service)
        for model in config.model_config_list.config:
            if model.name == self._model_name:
                model.version_labels.pop(label, None)
                _drop_gone(model, known)
        self._apply(config, service)

    def pinned(self) -> set[int]:
        """Versions that the configuration names: those that labels are on, and those of the policy "specific".

        Raises:
            OSError, ValueError: As the constructor.
        """
        models = [model for model in self._read().model_config_list.config if model.name == self._model_name]
        labelled = {version for model in models for version in model.version_labels.values()}
        return labelled.union(*(model.model_version_policy.specific.versions for model in models))

    def _known(self, service: ModelServiceClient) -> set[int]:
        try:
            states = service.status(self._model_name)
        except RankingError as error:
            if error.code != "NOT_FOUND":
                raise
            return set()
        return {version for version, status in states.items() if status.state in COMING}

    def _apply(self, config: api.ModelServerConfig, service: ModelServiceClient) -> None:
        service.reload(list(config.model_config_list.config))
        if isinstance(self._source, api.ModelConfig):
            self._source.CopyFrom(config.model_config_list.config[0])
        elif self._read() != config:
            text = self._source.read_text()
            lines = text.splitlines(keepends=True)
            top = next((row for row, line in enumerate(lines) if not line.startswith("#")), len(lines))
            replace_durably(self._source, ("".join(lines[:top]) + text_format.MessageToString(config)).encode())

    def _read(self) -> api.ModelServerConfig:
        config = api.ModelServerConfig()
        if isinstance(self._source, api.ModelConfig):
            config.model_config_list.config.add().CopyFrom(self._source)
        else:
            try:
                text_format.Parse(self._source.read_text(), config)
            except (text_format.ParseError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{self._source} can't be rewritten with a label: it is not a ModelServerConfig, or has a field "
                    f"that would be lost ({error})"
                ) from error
        names = [model.name for model in config.model_config_list.config]
        if names.count(self._model_name) != 1:
            raise ValueError(f"the server's configuration has the models {names}, expected {self._model_name!r} once")
        return config


def _drop_gone(model: api.ModelConfig, known: Collection[int]) -> None:
    for label, version in list(model.version_labels.items()):
        if version not in known:
            _log.warning("label %r goes: the server has no version %d of %s", label, version, model.name)
            del model.version_labels[label]
