"""VersionManager: loads and unloads versions as they appear and disappear on disk."""

import dataclasses
import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
from tensorflow_serving.apis import model_pb2

from serving.local_server.model_config import ModelConfig
from serving.local_server.servable import Servable
from serving.local_server.serving_error import ServingError, invalid_argument
from serving.local_server.serving_map import ServingMap, State

LOAD_RETRIES = 5
RETRY_S = 60.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class _Failure:
    attempts: int
    retry_at: float
    reason: str


class VersionManager:
    """Keeps the versions loaded that the configuration wants, without failing a request.

    Each pass over the disk loads and warms up new versions first, then switches, and only then lets go of old ones; an
    old one is freed when the last request that uses it has been answered. Where the newest version can't be loaded, the
    old one stays. Loading is tried again 5 times, a minute apart, as long as the folder is there.
    """

    def __init__(
        self,
        load: Callable[[Path], Servable] = Servable,
        *,
        poll_s: float = 1.0,
        retry_s: float = RETRY_S,
        labels_before_versions: bool = False,
        prepare: Callable[[Servable], object] | None = None,
    ) -> None:
        """Does nothing until `start`.

        Args:
            load: Makes a servable from a version's folder.
            poll_s: Seconds between two looks at the disk.
            retry_s: Seconds between two attempts to load the same version.
            labels_before_versions: Whether a label that is new may name a version that isn't available yet, as with
                TensorFlow Serving's --allow_version_labels_for_unavailable_models. An old one never moves to such a
                version.
            prepare: Called with the newest servable of each model at each look, to ready what the next one will need.
        """
        self.serving = ServingMap()
        """What requests read."""
        self._load = load
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._labels_before_versions = labels_before_versions
        self._prepare = prepare
        self._unprepared: dict[str, int] = {}
        self._pass_lock = threading.Lock()  # one pass at a time; held while a model loads
        self._configs: dict[str, ModelConfig] = {}
        self._failures: dict[tuple[str, int], _Failure] = {}
        self._unreadable: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="version-manager", daemon=True)

    def start(self, configs: Sequence[ModelConfig]) -> None:
        """Loads what is there, and then follows the disk in a thread of its own.

        Raises:
            ServingError: As `reload`, but a model without a version that can be loaded is waited for.
        """
        with self._pass_lock:
            self._configure(configs)
            self._pass()
        self._thread.start()

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Replaces the whole configuration; returns when models that are new in it are available.

        Raises:
            ServingError: INVALID_ARGUMENT for a name listed twice, FAILED_PRECONDITION for a label on a version that
                isn't available; both change nothing. UNKNOWN if a new model has no version that can be loaded.
        """
        with self._pass_lock:
            new = {config.name for config in configs} - set(self._configs)
            self._configure(configs)
            self._pass()
            if missing := sorted(new - self.serving.models()):
                reasons = [
                    f"{{name: {name} version: {version}}} due to error: {failure.reason}"
                    for (name, version), failure in self._failures.items()
                    if name in missing
                ]
                raise ServingError(
                    grpc.StatusCode.UNKNOWN,
                    f"{len(missing)} model(s) did not become available: {{{', '.join(reasons or missing)}}}",
                )

    def stop(self, drain_s: float = 5.0) -> None:
        """Ends the thread and frees all versions, each when its last request has been answered.

        One that is still in use after `drain_s` seconds is left to the end of the process.
        """
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        end = time.monotonic() + drain_s
        for name in self.serving.models():
            self._retire_all_but(name, set())
        self.serving.free_retired()
        while self.serving.has_retired() and time.monotonic() < end:
            time.sleep(0.01)
            self.serving.free_retired()

    def _configure(self, configs: Sequence[ModelConfig]) -> None:
        by_name: dict[str, ModelConfig] = {}
        labels = {}
        for config in configs:
            if config.name in by_name:
                raise invalid_argument(f"Illegal to list model {config.name} multiple times in config list")
            by_name[config.name] = config
            for label, version in config.labels.items():
                known = self.serving.labels().get((config.name, label))
                may_wait = self._labels_before_versions and known in (None, version)
                if version not in self.serving.versions(config.name) and not may_wait:
                    raise ServingError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {config.name}, "
                        "which is not currently available for inference",
                    )
                labels[config.name, label] = version
        self._configs = by_name
        self.serving.set_labels(labels)

    def _poll(self) -> None:
        while not self._stopped.wait(self._poll_s):
            with self._pass_lock:
                self._pass()
            self._prepare_next()  # takes seconds, in which labels may move

    def _prepare_next(self) -> None:
        """Readies what the next version of each model will need; nothing waits for that."""
        if self._prepare is None or self.serving.has_retired():  # what is retired is of use as soon as it is free
            return
        for name in self._configs:
            version = max(self.serving.versions(name), default=None)
            if version is None or self._unprepared.get(name) == version:
                continue
            self._unprepared[name] = version
            spec = model_pb2.ModelSpec(name=name)
            spec.version.value = version
            try:
                with self.serving.servable(spec) as (_, servable):
                    self._prepare(servable)
            except Exception as error:  # the model serves all the same; the next load shows what is wrong
                _log.warning("Could not prepare for the version after %d of model %s: %s", version, name, error)
            else:
                del self._unprepared[name]

    def _pass(self) -> None:
        self._free()  # what a version that was retired in the last pass held is of use to one that is loaded in this
        for config in self._configs.values():
            self._follow(config)
        for name in self.serving.models() - set(self._configs):
            self._retire_all_but(name, set())
        self._unreadable &= set(self._configs)
        for key in [key for key in self._failures if key[0] not in self._configs]:
            self._forget_failure(key)
        self._free()

    def _free(self) -> None:
        freed = self.serving.free_retired()
        if freed:
            gc.collect()  # graphs hold themselves in circles; left to itself Python keeps dozens of them
        for name, version in freed:
            _log.info("Unloaded model %s version %d", name, version)

    def _follow(self, config: ModelConfig) -> None:
        name = config.name
        try:
            aspired = config.aspired_versions()
            self._unreadable.discard(name)
        except OSError as error:
            # A file system that is away for a moment must not take the served model away.
            if name not in self._unreadable:
                _log.warning("Could not find base path %s for servable %s: %s", config.base_path, name, error)
                self._unreadable.add(name)
            return
        for version in sorted(set(aspired) - self.serving.versions(name), reverse=True):
            if self._is_due(name, version) and not self._stopped.is_set():
                self._load_version(name, version, aspired[version])
        if not aspired or set(aspired) & self.serving.versions(name):
            self._retire_all_but(name, set(aspired))
        for key in [key for key in self._failures if key[0] == name and key[1] not in aspired]:
            self._forget_failure(key)

    def _forget_failure(self, key: tuple[str, int]) -> None:
        self.serving.set_status(*key, State.END, self._failures.pop(key).reason)

    def _is_due(self, name: str, version: int) -> bool:
        failure = self._failures.get((name, version))
        return failure is None or (failure.attempts <= LOAD_RETRIES and time.monotonic() >= failure.retry_at)

    def _load_version(self, name: str, version: int, path: Path) -> None:
        self.serving.set_status(name, version, State.LOADING)
        start = time.monotonic()
        servable = None
        try:
            servable = self._load(path)
            warmed_up = servable.warm_up()
        except Exception as error:  # whatever is wrong with one version, the others must go on serving
            if servable is not None:
                servable.close()
            self._note_failure(name, version, f"{type(error).__name__}: {error}")
            return
        self.serving.add(name, version, servable)
        self._failures.pop((name, version), None)
        took_s = time.monotonic() - start
        _log.info("Loaded model %s version %d in %.2f s (%d warm-up requests)", name, version, took_s, warmed_up)

    def _note_failure(self, name: str, version: int, reason: str) -> None:
        previous = self._failures.get((name, version))
        attempts = previous.attempts + 1 if previous else 1
        self._failures[name, version] = _Failure(attempts, time.monotonic() + self._retry_s, reason)
        given_up = attempts > LOAD_RETRIES
        self.serving.set_status(name, version, State.END if given_up else State.LOADING, reason)
        outlook = "given up" if given_up else f"next in {self._retry_s:g} s"
        _log.error("Can't load model %s version %d (attempt %d, %s): %s", name, version, attempts, outlook, reason)

    def _retire_all_but(self, name: str, kept: set[int]) -> None:
        for version in self.serving.versions(name) - kept:
            self.serving.retire(name, version)
