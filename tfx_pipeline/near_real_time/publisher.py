"""StreamPublisher: weights -> a published version -> its first answer."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_transforms.schema import RankingSchema
from keras_models.export import export_ranker
from keras_models.ranker import LiveRanker
from serving.checkpoint_publisher import CheckpointPublisher
from serving.client import RankingClient
from serving.model_service_client import ModelServiceClient
from serving.prediction_client import PredictionClient
from serving.publish_error import PublishError
from serving.publisher import publish, published_versions
from serving.room_side import RoomSide
from serving.version_folders import GRAPH_FILE
from tfx_pipeline.file_names import EXTRA_FOLDER, RANKER_FILE
from tfx_pipeline.near_real_time.served_version import ServedVersion
from tfx_pipeline.near_real_time.server import StreamServer
from tfx_pipeline.near_real_time.version_mark import version_mark
from tfx_pipeline.warmup import warmup_requests

_ROOMS = 10
_DEADLINE_S = 10.0


def loadable_versions(model_dir: Path, model_name: str) -> list[int]:
    """The versions that a server could load, ascending."""
    folder = Path(model_dir) / model_name
    return [
        number for number in published_versions(model_dir, model_name) if (folder / str(number) / GRAPH_FILE).exists()
    ]


class StreamPublisher:
    """Pushes weights, and sees them answer: available, its vectors stored and the label moved, one real ranking.

    Args:
        server: The model server, the store and the model's folder.
        schema: What examples hold.
        keep: Versions that stay in the model's folder.
        timeout_s: How long a version may take until it is available.
        seen: The newest version when the weights to begin with were chosen: later ones are someone else's, and so is
            another one in its place.
    """

    def __init__(
        self, server: StreamServer, schema: RankingSchema, keep: int = 5, timeout_s: float = 60.0, seen: int = 0
    ) -> None:
        self._server, self._schema, self._keep, self._timeout_s = server, schema, keep, timeout_s
        self._publisher: CheckpointPublisher | None = None
        self._side: RoomSide | None = None
        self._side_address: str | None = None
        self._see(seen)

    @property
    def has_base(self) -> bool:
        """Whether there is a version that weights can be pushed to."""
        return self._publisher is not None

    def go_on_from(self, version: int) -> None:
        """Weights of later pushes go under the graph of this version, which counts as seen.

        Raises:
            PublishError: If it isn't one that weights can be pushed to.
        """
        self._publisher = CheckpointPublisher(self._server.model_dir, self._server.model_name, version, self._keep)
        there = loadable_versions(self._server.model_dir, self._server.model_name)
        self._see(max(self._seen, version) if self._seen in there else version)

    def newer_version(self) -> int | None:
        """The newest version that someone else has published since the newest that was seen; None if nobody has.

        Its number is a lower one, or the same, where all versions were removed and numbers began anew.

        Raises:
            OSError: If the model's folder can't be read.
        """
        newest = max(loadable_versions(self._server.model_dir, self._server.model_name), default=0)
        if not newest or (newest == self._seen and version_mark(self._folder(newest)) == self._mark):
            return None
        return newest

    def publish_first(
        self, ranker: LiveRanker, files: Sequence[str], manifest: Mapping[str, Any], warmup_rows: int
    ) -> int:
        """Exports a model and publishes it whole; returns its version.

        Args:
            ranker: The model.
            files: TFRecord files with examples for the warm-up requests.
            manifest: The fields of `VersionManifest`.
            warmup_rows: Examples a request.

        Raises:
            PublishError: If it can't be published, or someone else has published a version.
        """
        with tempfile.TemporaryDirectory() as folder:
            export = Path(folder) / "model"
            export_ranker(ranker, export)
            (export / EXTRA_FOLDER).mkdir(exist_ok=True)
            (export / EXTRA_FOLDER / RANKER_FILE).write_text(json.dumps(ranker.config.to_dict(), indent=2) + "\n")
            requests = warmup_requests(export, self._server.model_name, files, self._schema, warmup_rows)
            self._require_newest()
            version = publish(export, self._server.model_dir, manifest, requests, keep=self._keep)
        self.go_on_from(version)
        return version

    def push(self, weights: Sequence[np.ndarray], manifest: Mapping[str, Any]) -> int:
        """Publishes weights under the graph that is there; returns their version."""
        if self._publisher is None:
            raise ValueError("there is no version to push weights to; publish a first one")
        self._require_newest()
        served = self._server.served_versions()
        version = self._publisher.push(weights, manifest, protected=served)
        self._see(version)
        return version

    def serve(
        self, version: int, number: int, example: Mapping[str, np.ndarray] | None, push_seconds: float = 0.0
    ) -> ServedVersion:
        """Waits until a published version is available, promotes it, and asks it; starts the server if none runs.

        Args:
            version: The version.
            number: Of its weights.
            example: One example, (1, ...) by name: whose user is asked for, and what is asked where no room is live.
                None asks nothing.
            push_seconds: How long the push took.

        Raises:
            RankingError: If it isn't available in time, or doesn't answer.
        """
        seconds, begin = {"push": push_seconds}, time.monotonic()

        def took(stage: str) -> None:
            nonlocal begin
            now = time.monotonic()
            seconds[stage], begin = now - begin, now

        self._server.start()
        address = self._server.address
        took("start")
        with ModelServiceClient(address) as service:
            self._server.announce(service, version)
            service.wait_for_version(self._server.model_name, version, self._timeout_s)
        took("load")
        store = self._server.store
        rooms = 0
        if store is not None:
            self._room_side(store).promote(version)
            took("promote")
        if store is not None and example is not None:
            with RankingClient(address, self._server.model_name, store, deadline_s=_DEADLINE_S) as client:
                ranking = client.rank(int(example["user_id"][0]), limit=_ROOMS)
                if ranking.version not in (None, version):
                    raise ValueError(f"version {ranking.version} answered, expected {version}: another one promotes")
                rooms = len(ranking.rooms)
        if not rooms and example is not None:
            inputs = {feature.name: example[feature.name] for feature in self._schema.inputs}
            with PredictionClient(address, self._server.model_name, deadline_s=_DEADLINE_S) as predictor:
                predictor.predict(inputs, version=version)
        took("answer")
        rounded = {stage: round(value, 3) for stage, value in seconds.items()}
        return ServedVersion(version, number, time.time(), rooms, rounded)

    def refresh(self) -> None:
        """Computes the vectors of rooms that changed, of the versions that are served."""
        if self._server.store is not None and self._server.store.served.labels:
            self._room_side(self._server.store).refresh()

    def close(self) -> None:
        if self._side is not None:
            self._side.close()
            self._side = None

    def _see(self, version: int) -> None:
        self._seen, self._mark = version, version_mark(self._folder(version)) if version else None

    def _folder(self, version: int) -> Path:
        return self._server.model_dir / self._server.model_name / str(version)

    def _require_newest(self) -> None:
        newer = self.newer_version()
        if newer is not None:
            raise PublishError(f"version {newer} was published by another process meanwhile: it has to be gone on from")

    def _room_side(self, store: Any) -> RoomSide:
        server = self._server
        if self._side_address != server.address:  # another server was started
            self.close()
        if self._side is None:
            self._side_address = server.address
            self._side = RoomSide(
                store, server.address, server.model_name, model_config=server.model_config, deadline_s=_DEADLINE_S
            )
        return self._side
