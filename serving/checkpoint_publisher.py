"""CheckpointPublisher: publishes new weights under the graph of a version that is there already."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.durable_files import link_or_copy_durably, sync_folder, write_durably
from serving.publish_error import PublishError
from serving.variables_bundle import VariablesBundle, read_weights
from serving.version_folders import GRAPH_FILE, VersionFolders
from serving.version_manifest import MANIFEST_FILE, VersionManifest

__all__ = ["CheckpointPublisher", "read_weights"]

_VARIABLES_FOLDER = "variables"
_EXTRA_FOLDER = "assets.extra"
_OF_ONE_TRAINING = ("model.weights.h5", "training.json")
"""In the extra folder of what a pipeline exports: Keras weights and the training's report. They belong to the weights
that were exported, and a warm start or a pusher that found them beside others would take them for those."""


class CheckpointPublisher:
    """Publishes weights as new versions of a model, without exporting it again.

    The graph doesn't change between the versions of a near-real-time loop. A push writes a new variables bundle under
    the keys of the version that it goes on from, and hard-links everything else of it: `saved_model.pb`,
    `fingerprint.pb`, `assets` and `assets.extra`, the warm-up requests among them (copies where there are no links). No
    TensorFlow graph is traced or loaded; instead of answering warm-up requests, as in `publish`, the weights are
    checked: number, shapes and dtypes as in the bundle, all numbers finite. The rest is as in `publish`: a version is
    whole or absent, numbers only grow, one process publishes at a time, all but the newest are removed.

    A pushed version doesn't carry `assets.extra/model.weights.h5` and `training.json` on, which tell of other weights.
    Read the weights of any version with `read_weights(folder)`, in the order of `model.weights`, and set them with
    `model.set_weights`; `assets.extra/ranker.json` says which model that is. `fingerprint.pb` stays the
    export's: its hashes of the graph hold, that of the checkpoint doesn't, and no loader compares it.

    The first version has to be published by `serving.publisher.publish`, from an export whose variables bundle holds
    `weights/i` for each of `model.weights` and no other variable: `keras_models.export.export_ranker` writes such.

    Example:

        with CheckpointPublisher(model_dir, "live_ranker") as publisher:
            version = publisher.push(model.get_weights(), manifest)
    """

    def __init__(
        self,
        model_dir: Path,
        model_name: str,
        base_version: int | None = None,
        keep: int = 5,
        *,
        rename: bool = True,
    ) -> None:
        """Reads what the version to go on from is made of; takes no lock.

        Args:
            model_dir: Folder of all models.
            model_name: The model's name.
            base_version: Version to go on from; None for the newest that a server could load.
            keep: As in `publish`.
            rename: As in `publish`.

        Raises:
            ValueError: An argument is wrong.
            PublishError: There is no such version, or it isn't one that weights can be pushed to.
        """
        self._model_name = model_name
        self._folders = VersionFolders(Path(model_dir) / model_name, keep, rename)
        self._newest = max(self._loadable(), default=0)
        if base_version is None and not self._newest:
            raise PublishError(
                f"{self._folders.base} has no version to go on from; publish one with serving.publisher.publish"
            )
        self._version = self._newest if base_version is None else base_version
        self._bundle = self._read_base()
        self._closed = False

    def __enter__(self) -> "CheckpointPublisher":
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True

    @property
    def version(self) -> int:
        """The version that this publisher pushed last; before the first push, the one that it goes on from."""
        return self._version

    def newer_version(self) -> int | None:
        """The newest version that someone else has published since; None if nobody has.

        Such a version may have another graph and other weights: nothing is pushed over it. Make a new
        `CheckpointPublisher` that goes on from it.
        """
        newest = max(self._loadable(), default=0)
        return newest if newest > self._newest else None

    def push(self, weights: Sequence[np.ndarray], manifest: Mapping[str, Any], protected: Collection[int] = ()) -> int:
        """Publishes `weights` as the next version, and returns its number.

        Args:
            weights: In the order of `model.weights`, of the same shapes and dtypes.
            manifest: The fields of `VersionManifest`. `parent_version` may be left out or None: it is `version` then.
                After a rollback, say which version the weights go on from.
            protected: Versions to keep however old they are, such as those that a server's labels are on.

        Raises:
            ValueError: The manifest is wrong, or the publisher was closed.
            PublishError: The weights don't fit or aren't finite, another process is publishing this model or has
                published a newer version, the version to go on from was damaged, or the disk is full. Nothing is
                visible then, and a later push may work.
        """
        if self._closed:
            raise ValueError("push to a CheckpointPublisher that was closed; make a new one")
        fields = dict(manifest)
        if fields.get("parent_version") is None:
            fields["parent_version"] = self._version
        checked = VersionManifest.from_dict(fields)
        if checked.model_name != self._model_name:
            raise ValueError(
                f"the manifest is one of model {checked.model_name!r}, this publisher's is {self._model_name!r}"
            )
        self._bundle.check(weights)

        def fill(candidate: Path, version: int) -> None:
            newer = self.newer_version()
            if newer is not None:
                raise PublishError(
                    f"version {newer} of {self._folders.base} was published by another writer since version "
                    f"{self._version}; go on from it with a new CheckpointPublisher"
                )
            candidate.mkdir()
            self._link_graph(candidate)
            self._bundle.write(candidate / _VARIABLES_FOLDER, weights)
            write_durably(candidate / MANIFEST_FILE, checked.to_json(version).encode())
            sync_folder(candidate)

        self._version = self._newest = self._folders.add(fill, protected)
        return self._version

    def _loadable(self) -> list[int]:
        return [number for number in self._folders.numbers() if (self._folder(number) / GRAPH_FILE).exists()]

    def _folder(self, version: int) -> Path:
        return self._folders.base / str(version)

    def _read_base(self) -> VariablesBundle:
        folder = self._folder(self._version)
        if folder.is_symlink() or not folder.is_dir():
            raise PublishError(
                f"{folder} is not the folder of a version; those in {self._folders.base} are {self._folders.numbers()}"
            )
        for file in MANIFEST_FILE, GRAPH_FILE, f"{_VARIABLES_FOLDER}/variables.index":
            _check_regular(folder / file)
        try:
            manifest = VersionManifest.read(folder)
            if manifest.model_name != self._model_name:
                raise ValueError(f"its manifest is one of the model {manifest.model_name!r}")
            return VariablesBundle.read(folder / _VARIABLES_FOLDER)
        except ValueError as error:
            raise PublishError(
                f"weights can't be pushed to {folder}: {error}; publish a whole version with serving.publisher.publish"
            ) from error

    def _link_graph(self, candidate: Path) -> None:
        """Everything of the version that doesn't depend on the weights."""
        source = self._folder(self._version)
        _check_regular(source / GRAPH_FILE)
        for path in sorted(source.rglob("*")):
            file = path.relative_to(source)
            if file.parts[0] in (_VARIABLES_FOLDER, MANIFEST_FILE):
                continue
            if file.parts[0] == _EXTRA_FOLDER and file.name in _OF_ONE_TRAINING:
                continue
            if path.is_dir() and not path.is_symlink():
                (candidate / file).mkdir()
            else:
                _check_regular(path)
                link_or_copy_durably(path, candidate / file)
        for folder in sorted(candidate.rglob("*")):
            if folder.is_dir():
                sync_folder(folder)


def _check_regular(path: Path) -> None:
    """A link could point at a file that changes, or that nobody meant to publish."""
    if path.is_symlink() or not path.is_file():
        what = "is a symbolic link" if path.is_symlink() else "is not a file" if path.exists() else "is missing"
        raise PublishError(
            f"weights can't be pushed to this version: {path} {what}; publish a whole version with "
            "serving.publisher.publish"
        )
