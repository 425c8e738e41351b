"""ServingRig: store, model and server as they run in production, on this machine."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from beam_transforms.online_store import OnlineStore, open_online_store
from beam_transforms.schema import WINDOW_MS
from benchmarks.serving_rig.recipe import BEGIN_MS, MODEL_NAME, Recipe
from benchmarks.serving_rig.swap import Swap
from serving.checkpoint_publisher import CheckpointPublisher
from serving.launch import RunningServer, launch
from serving.model_service_client import ModelServiceClient
from serving.protos import serving_api_pb2 as api
from serving.room_side import RoomSide

LATEST = 2
"""Versions that the server keeps, as `serving/config/models.config` has it."""

_WAIT_S = 60.0
_LOOK_S = 0.02
_NOISE = 1e-3


class ServingRig:
    """Store, published model, running server and room side; a context manager that ends and removes all of them.

    Attributes:
        server: The running server.
        location: Folder of the online store.
        store: The store, opened for writing.
        room_side: The room-side job, which has promoted the first version.
        versions: What was pushed, ascending.
    """

    def __init__(self, recipe: Recipe, options: Sequence[str] = ()) -> None:
        """Publishes, fills, starts and promotes.

        Args:
            options: More options of the local server.
        """
        self.recipe = recipe
        self._stack = ExitStack()
        try:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="foresight-bench-")))
            self._weights = recipe.publish(folder)
            self.models, self.location, self._window = folder / "models", folder / "store", 0
            self.store: OnlineStore = self._stack.enter_context(open_online_store(self.location, readonly=False))
            self.write_window()
            self.server: RunningServer = self._stack.enter_context(launch(self.models, MODEL_NAME, options=options))
            self._service = self._stack.enter_context(ModelServiceClient(self.server.address))
            config = api.ModelConfig(
                name=MODEL_NAME, base_path=str((self.models / MODEL_NAME).resolve()), model_platform="tensorflow"
            )
            config.model_version_policy.latest.num_versions = LATEST
            self._service.reload([config])
            self._publisher = self._stack.enter_context(CheckpointPublisher(self.models, MODEL_NAME))
            self.versions = [self._publisher.version]
            self._service.wait_for_version(MODEL_NAME, self.versions[0], _WAIT_S)
            side = RoomSide(self.store, self.server.address, MODEL_NAME, model_config=config)
            self.room_side = self._stack.enter_context(side)
            self.room_side.promote(self.versions[0])
        except BaseException:
            self._stack.close()
            raise

    def write_window(self) -> None:
        """Writes all rooms as of the next window."""
        tables = self.recipe.tables(self._window)
        as_of_ms = BEGIN_MS + self._window * WINDOW_MS
        self.store.write(self.recipe.schema, as_of_ms, tables, np.arange(self.recipe.rooms))
        self._window += 1

    def swap(self, promote: bool = True) -> Swap:
        """Pushes other weights, waits until the server has them and is rid of the oldest version, and promotes.

        Raises:
            RuntimeError: That takes longer than a minute.
        """
        pushed_s = time.time()
        version, appeared_s = self._push()
        loading_s = self._wait(lambda states: version in states, f"version {version} isn't seen by the server")
        available_s = self._wait(lambda states: states.get(version) == "AVAILABLE", f"version {version} isn't there")
        gone = self.versions[:-LATEST]
        unloaded_s = self._wait(
            lambda states: all(states.get(old, "END") == "END" for old in gone), f"versions {gone} are still loaded"
        )
        if promote:
            self.room_side.promote(version)
        return Swap(version, pushed_s, appeared_s, loading_s, available_s, unloaded_s, time.time())

    def _push(self) -> tuple[int, float]:
        """The next version, and when it appeared on the disk."""
        shift = _NOISE * len(self.versions)
        weights = [
            weight + weight.dtype.type(shift) if weight.dtype.kind == "f" and weight.ndim == 1 else weight
            for weight in self._weights
        ]
        begin_s = time.time()
        version = self._publisher.push(weights, self.recipe.manifest())
        self.versions.append(version)
        # A rename is a change of the folder's inode; the clock of files is coarse.
        return version, max((self.models / MODEL_NAME / str(version)).stat().st_ctime, begin_s)

    def _wait(self, holds: Callable[[dict[int, str]], bool], otherwise: str) -> float:
        end = time.monotonic() + _WAIT_S
        while not holds(states := self.states()):
            if time.monotonic() > end:
                raise RuntimeError(f"after {_WAIT_S:g} s {otherwise}; the server has {states}")
            time.sleep(_LOOK_S)
        return time.time()

    def states(self) -> dict[int, str]:
        """Version -> state, of all that the server tells of."""
        return {version: status.state for version, status in self._service.status(MODEL_NAME).items()}

    def __enter__(self) -> "ServingRig":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
