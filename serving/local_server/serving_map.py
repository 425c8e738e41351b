"""ServingMap: the versions that requests can reach now, and what became of the others."""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from serving.local_server.servable import Servable
from serving.local_server.serving_error import ServingError, invalid_argument

State = get_model_status_pb2.ModelVersionStatus

_ENDED_VERSIONS_KEPT = 20
"""How many unloaded versions a status answer still tells of; a server that gets a version a minute runs for months."""


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """What is known of one version: a value of ModelVersionStatus.State, and why it failed ("" if it did not)."""

    state: int
    error: str = ""


@dataclasses.dataclass(eq=False)
class _Loaded:
    name: str
    version: int
    servable: Servable
    requests: int = 0
    """Requests that use it now."""


class ServingMap:
    """Finds the version that a request means and keeps it from being freed meanwhile. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments only: every request takes it
        self._loaded: dict[str, dict[int, _Loaded]] = collections.defaultdict(dict)
        self._retired: list[_Loaded] = []
        self._labels: Mapping[tuple[str, str], int] = {}
        self._statuses: dict[str, dict[int, VersionStatus]] = collections.defaultdict(dict)

    @contextlib.contextmanager
    def servable(self, model_spec: Any) -> Iterator[tuple[int, Servable]]:
        """The version that a ModelSpec asks for, as (number, servable); it isn't freed within the `with` block.

        Raises:
            ServingError: INVALID_ARGUMENT for an empty name or an unknown label, NOT_FOUND if nothing fits.
        """
        with self._lock:
            loaded = self._find(model_spec)
            loaded.requests += 1
        try:
            yield loaded.version, loaded.servable
        finally:
            with self._lock:
                loaded.requests -= 1

    def statuses(self, name: str, version: int | None) -> dict[int, VersionStatus]:
        """Version -> status of one version of a model, or of all for None.

        Raises:
            ServingError: NOT_FOUND if none is known.
        """
        with self._lock:
            known = dict(self._statuses.get(name, {}))
        if version is None:
            if not known:
                raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
            return known
        if version not in known:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find version {version} of model {name}")
        return {version: known[version]}

    def models(self) -> set[str]:
        """Names with an available version."""
        with self._lock:
            return {name for name, versions in self._loaded.items() if versions}

    def versions(self, name: str) -> set[int]:
        """The available versions of a model."""
        with self._lock:
            return set(self._loaded.get(name, ()))

    def labels(self) -> dict[tuple[str, str], int]:
        """(model, label) -> version."""
        with self._lock:
            return dict(self._labels)

    def set_labels(self, labels: Mapping[tuple[str, str], int]) -> None:
        """Replaces all labels: (model, label) -> version."""
        with self._lock:
            self._labels = labels

    def set_status(self, name: str, version: int, state: int, error: str = "") -> None:
        """Notes the state of a version that isn't available, and forgets the oldest ended ones."""
        with self._lock:
            statuses = self._statuses[name]
            statuses[version] = VersionStatus(state, error)
            ended = sorted(number for number, status in statuses.items() if status.state == State.END)
            for number in ended[:-_ENDED_VERSIONS_KEPT]:
                del statuses[number]

    def add(self, name: str, version: int, servable: Servable) -> None:
        """Makes a version available: from now on requests reach it."""
        with self._lock:
            self._loaded[name][version] = _Loaded(name, version, servable)
            self._statuses[name][version] = VersionStatus(State.AVAILABLE)

    def retire(self, name: str, version: int) -> None:
        """Makes a version unavailable to new requests."""
        with self._lock:
            self._retired.append(self._loaded[name].pop(version))
            self._statuses[name][version] = VersionStatus(State.UNLOADING)

    def free_retired(self) -> list[tuple[str, int]]:
        """Closes retired versions that no request uses any longer; returns which (model, version)."""
        with self._lock:
            idle = [loaded for loaded in self._retired if loaded.requests == 0]
            self._retired = [loaded for loaded in self._retired if loaded.requests]
        for loaded in idle:
            loaded.servable.close()
            if loaded.version not in self.versions(loaded.name):  # it may have come back meanwhile
                self.set_status(loaded.name, loaded.version, State.END)
        return [(loaded.name, loaded.version) for loaded in idle]

    def has_retired(self) -> bool:
        """Whether a retired version is still in use."""
        with self._lock:
            return bool(self._retired)

    def _find(self, model_spec: Any) -> _Loaded:
        name = model_spec.name
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        loaded = self._loaded.get(name, {})
        choice = model_spec.WhichOneof("version_choice")
        if choice is None:
            if not loaded:
                raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({name})")
            return loaded[max(loaded)]
        version = model_spec.version.value
        if choice == "version_label":
            if (name, model_spec.version_label) not in self._labels:
                raise invalid_argument(f"Unrecognized servable version label: {model_spec.version_label}")
            version = self._labels[name, model_spec.version_label]
        if version not in loaded:
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific({name}, {version})"
            )
        return loaded[version]
