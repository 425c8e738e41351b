"""StreamServer: the model server and the store that a near-real-time loop serves from."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from beam_transforms.online_store import OnlineStore, open_online_store
from serving.launch import RunningServer, launch
from serving.model_service_client import ModelServiceClient
from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError

_log = logging.getLogger(__name__)


class StreamServer:
    """Where versions are served: an address that is given, or a server that is started when there is a version.

    Args:
        model_dir: Folder of all models, as the server sees it.
        model_name: The model.
        store_location: Of the online store; None for none.
        address: "host:port" of a server that runs; None starts one.
        model_config: The configuration file of a server that runs, whose label is to be moved; None leaves it alone.
        started: Called with the address of a server that was started.
        options: More options of the command line of a local server that is started.
    """

    def __init__(
        self,
        model_dir: Path,
        model_name: str,
        store_location: str | None,
        address: str | None = None,
        model_config: Path | None = None,
        started: Callable[[str], None] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.model_dir, self.model_name = Path(model_dir), model_name
        self._location, self._address, self._file = store_location, address, model_config
        self._started = started or (lambda address: None)
        self._options = tuple(options)
        self._own: api.ModelConfig | None = None
        self._store: OnlineStore | None = None
        self._stack = contextlib.ExitStack()
        self._launched = self._stack.enter_context(contextlib.ExitStack())
        self._running: RunningServer | None = None

    @property
    def address(self) -> str:
        """Raises a ValueError as long as none is given and none was started."""
        if self._address is None:
            raise ValueError("no model server runs yet")
        return self._address

    @property
    def model_config(self) -> api.ModelConfig | Path | None:
        """See `RoomSide`."""
        return self._own if self._own is not None else self._file

    @property
    def store(self) -> OnlineStore | None:
        """The online store, opened for writing; None if there is none."""
        if self._store is None and self._location is not None:
            self._store = self._stack.enter_context(open_online_store(self._location, readonly=False))
        return self._store

    def served_versions(self) -> set[int]:
        """Versions that labels are on."""
        return set(self.store.served.labels.values()) if self.store is not None else set()

    @property
    def has_ended(self) -> bool:
        """Whether a server was started and runs no more."""
        return self._running is not None and self._running.has_ended

    def start(self) -> None:
        """Starts a server unless one runs, also in place of one that has ended; call it once there is a version.

        Call it from a thread that lives on.

        Raises:
            RankingError, RuntimeError: If it doesn't come up.
        """
        if self.has_ended:
            _log.warning("the model server at %s has ended: another one is started", self._address)
            self._address = self._running = None
            self._launched.close()
        if self._address is not None:
            return
        server = self._launched.enter_context(launch(self.model_dir, self.model_name, options=self._options))
        self._address, self._running = server.address, server
        self._own = api.ModelConfig(
            name=self.model_name,
            base_path=str((self.model_dir / self.model_name).resolve()),
            model_platform="tensorflow",
        )
        # The version before goes on answering until the new one is promoted.
        self._own.model_version_policy.latest.num_versions = 2
        with ModelServiceClient(server.address) as service:
            service.reload([self._own])
        self._started(server.address)

    def announce(self, service: ModelServiceClient, version: int) -> None:
        """Makes a server of one's own load a new version at once, and keep those that labels are on.

        Of the newest versions alone, those that failed on their way to a label would push out the one that answers.
        """
        if self._own is None:
            return
        labelled = self.served_versions()
        if labelled:
            folder = self.model_dir / self.model_name
            there = sorted(known for known in {*labelled, version} if (folder / str(known)).is_dir())
            self._own.model_version_policy.specific.versions[:] = there
        try:
            service.reload([self._own])
        except RankingError as error:
            _log.warning("the server wasn't told of version %d: %s", version, error)

    def __enter__(self) -> "StreamServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
