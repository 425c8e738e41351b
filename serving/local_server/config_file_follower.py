"""ConfigFileFollower: applies the file that the models were read from again and again."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.local_server.model_config import ModelConfig
from serving.local_server.serving_error import ServingError

_log = logging.getLogger(__name__)


class ConfigFileFollower:
    """Reloads a ModelServerConfig every so often, as TensorFlow Serving's --model_config_file_poll_wait_seconds.

    The file is applied each time, changed or not, as the real server does: what HandleReloadConfigRequest said holds
    until the next look. So move labels by the file or by requests, not by both. A file that can't be read or applied
    changes nothing and is logged once.
    """

    def __init__(self, path: Path, poll_s: float, reload: Callable[[Sequence[ModelConfig]], None]) -> None:
        """Args:
        poll_s: Seconds between two looks.
        reload: Takes the models; raises ServingError if it can't.
        """
        self._path = path
        self._poll_s = poll_s
        self._reload = reload
        self._stopped = threading.Event()
        self._logged = ""
        self._thread = threading.Thread(target=self._follow, name="config-file", daemon=True)

    def start(self) -> None:
        """Looks for the first time after the wait: whoever starts this has just read the file."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; waits for a reload under way."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._stopped.wait(self._poll_s):
            try:
                self._reload(ModelConfig.from_file(self._path))
                self._logged = ""
            except (OSError, ServingError) as error:
                if str(error) != self._logged:
                    _log.error("Could not apply %s: %s", self._path, error)
                self._logged = str(error)
