"""RoomSide: the job that computes the room side of the ranker once a window, not once a request."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from beam_transforms.online_store import OnlineStore
from beam_transforms.served import Served
from beam_transforms.stored_rooms import StoredRooms
from serving.label_config import COMING, LabelConfig
from serving.model_service_client import ModelServiceClient, VersionStatus
from serving.protos import serving_api_pb2 as api
from serving.ranking_error import RankingError
from serving.room_forecaster import RoomForecaster
from serving.room_side_report import RoomSideReport

_READ, _FORECAST, _WRITE = range(3)

_log = logging.getLogger(__name__)


class RoomSide:
    """Keeps the foresight vectors of live rooms in the online store, and says there which version is served.

    A version is promoted in this order: its vectors of all live rooms are written; the store's `served` moves, which
    is what readers go by; the server's label moves; vectors of versions that aren't served are forgotten. Whenever it
    is stopped, readers have a version with its vectors, the old one or the new one, and promoting again does what is
    left. Vectors of the version before are kept until the next is promoted, for requests that are under way.

    Of several such jobs for a store only one may promote at a time: what is served is read, changed and set. The
    server should keep two versions (`latest { num_versions: 2 }`), so that the old one answers until the new one is
    promoted.
    """

    def __init__(
        self,
        store: OnlineStore,
        address: str,
        model_name: str,
        *,
        model_config: api.ModelConfig | Path | None,
        batch: int = 512,
        deadline_s: float = 10.0,
        root_certificates: bytes | Path | None = None,
    ) -> None:
        """Connects at the first request.

        Args:
            store: The online store, opened for writing.
            address: "host:port" of the model server's gRPC interface.
            model_name: The name under which the server knows the model.
            model_config: The server's configuration, whose label is moved, see `LabelConfig`; None leaves the server's
                labels alone.
            batch: Rooms a request.
            deadline_s: Seconds for a request.
            root_certificates: PEM certificates of the server's authority, or their file, for TLS.

        Raises:
            ValueError: An argument is out of range, or the configuration can't be used.
            OSError: The configuration or the file of certificates can't be read.
        """
        self._labels = None if model_config is None else LabelConfig(model_config, model_name)
        self._store, self._model_name = store, model_name
        self._service = ModelServiceClient(address, root_certificates)
        self._forecaster = RoomForecaster(address, model_name, batch, deadline_s, root_certificates)
        self._begun: int | None = None  # a version whose vectors are stored, and whose promotion broke off then

    def promote(self, version: int, label: str = "stable") -> RoomSideReport:
        """Makes an available version the one that is served under a label.

        Args:
            version: The version; of a model without the signature `forecast` no vectors are stored.
            label: The label.

        Raises:
            RankingError: The server can't be reached, or doesn't have the version, or has unloaded that of another
                label that is served: nothing has changed for readers. Or it refuses to move its label: then the store
                serves the new version already, and promoting again computes only what changed since.
            ValueError, OSError: The store can't be read or written.
        """
        states = self._service.status(self._model_name)
        if version not in states or states[version].state != "AVAILABLE":
            raise RankingError(
                "FAILED_PRECONDITION",
                f"version {version} of model {self._model_name!r} can't be promoted: it isn't available, the server "
                f"has { {known: status.state for known, status in states.items()} }",
            )
        coming = {known for known, status in states.items() if status.state in COMING}
        if self._labels is not None:
            self._labels.check(label, coming, self._store.served.labels)
        size = self._forecaster.size(version)
        watch = _Stopwatch()
        rooms = self._compute(version, version if version == self._begun else None, watch) if size else None
        self._begun = version
        previous = self._store.served
        labels = {**previous.labels, label: version}
        kept = {*labels.values(), *previous.labels.values()}
        if previous.labels.get(label) == version:
            kept |= set(previous.foresight_sizes)
        sizes = {known: size if known == version else previous.foresight_sizes[known] for known in sorted(kept)}
        self._store.set_served(labels, sizes)
        if self._labels is not None:
            self._labels.move(label, version, coming, labels, self._service)
        forgotten = sum(self._store.forget_foresight(known) for known in self._over(version, sizes, previous))
        as_of_ms = self._store.as_of_ms if rooms is None else rooms.as_of_ms
        written = 0 if rooms is None else len(rooms.live_ids)
        self._begun = None
        return watch.report(RoomSideReport("promote", (version,), label, as_of_ms, written, forgotten=forgotten))

    def refresh(self) -> RoomSideReport:
        """Computes the vectors of live rooms that have none yet or changed since, for every version with a label.

        A version that the server doesn't have any more is left out, with a log line. One that fails otherwise doesn't
        hold up the others.

        Raises:
            RankingError: The server can't be reached, or gives what can't be used.
            ValueError, OSError: The store can't be read or written.
        """
        served, watch = self._store.served, _Stopwatch()
        states = self._service.status(self._model_name) if served.labels else {}
        times, written, done, skipped = [self._store.as_of_ms], 0, [], []
        errors: list[RankingError] = []
        for version in sorted(set(served.labels.values())):
            size = served.foresight_sizes[version]
            if self._is_gone(version, states):
                skipped.append(version)
                continue
            try:
                if size:
                    rooms = self._compute(version, version, watch)
                    times.append(rooms.as_of_ms)
                    written += len(rooms.live_ids)
                done.append(version)
            except RankingError as error:
                if error.code != "NOT_FOUND":
                    errors.append(error)
                    continue
                _log.warning("the server unloaded version %d of %s: %s", version, self._model_name, error)
                skipped.append(version)
        if errors:
            raise RankingError(errors[0].code, "; ".join(map(str, errors))) from errors[0]
        return watch.report(RoomSideReport("refresh", tuple(done), None, min(times), written, skipped=tuple(skipped)))

    def close(self) -> None:
        """Ends the connections; the store stays open."""
        self._forecaster.close()
        self._service.close()

    def __enter__(self) -> "RoomSide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _compute(self, version: int, stale_under: int | None, watch: "_Stopwatch") -> StoredRooms:
        """Vectors of all live rooms, or of those whose vector isn't up to date, computed and written."""
        watch.start()
        rooms = self._store.rooms(stale_under=stale_under)
        watch.stop(_READ)
        vectors = self._forecaster.forecast(version, rooms)
        watch.stop(_FORECAST)
        self._store.write_foresight(version, rooms.live_ids, vectors, rooms.as_of_ms, rooms.generation)
        watch.stop(_WRITE)
        return rooms

    def _over(self, version: int, sizes: Mapping[int, int], previous: Served) -> list[int]:
        """Versions to forget: those that were served, and older ones that a job left. A newer one may be on its way."""
        stored = [known for known in self._store.foresight_versions if known not in sizes]
        return [known for known in stored if known < version or known in previous.foresight_sizes]

    def _is_gone(self, version: int, states: dict[int, VersionStatus]) -> bool:
        state = states[version].state if version in states else "unknown"
        if state != "AVAILABLE":
            _log.warning("vectors of version %d of %s aren't refreshed: it is %s", version, self._model_name, state)
        return state != "AVAILABLE"


class _Stopwatch:
    """Sums up seconds of reading, forecasting and writing."""

    def __init__(self) -> None:
        self._seconds = [0.0, 0.0, 0.0]
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self, step: int) -> None:
        now = time.perf_counter()
        self._seconds[step] += now - self._since
        self._since = now

    def report(self, report: RoomSideReport) -> RoomSideReport:
        read_s, forecast_s, write_s = self._seconds
        return dataclasses.replace(report, read_s=read_s, forecast_s=forecast_s, write_s=write_s)
