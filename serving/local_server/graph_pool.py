"""GraphPool: finds the graph that a version shares with others."""

import hashlib
import threading
from pathlib import Path
from typing import Any

from serving.local_server.saved_graph import SavedGraph


class GraphPool:
    """Keeps each graph as long as a version uses it. Safe to use from many threads."""

    def __init__(self, config: Any = None) -> None:
        """`config` is the tf.compat.v1.ConfigProto of all sessions."""
        self._config = config
        self._lock = threading.Lock()  # held while a graph is imported: two versions of it must not import it twice
        self._graphs: dict[bytes, SavedGraph] = {}
        self._users: dict[bytes, int] = {}

    def acquire(self, path: Path) -> tuple[bytes, SavedGraph]:
        """The graph of the SavedModel in the folder `path`, with the key to `release` it by.

        Raises:
            OSError, RuntimeError, ValueError: It can't be read or imported.
        """
        content = (path / "saved_model.pb").read_bytes()
        key = hashlib.sha256(content).digest()
        with self._lock:
            if key not in self._graphs:
                self._graphs[key] = SavedGraph(content, self._config)
                self._users[key] = 0
            self._users[key] += 1
            return key, self._graphs[key]

    def release(self, key: bytes) -> None:
        """Says that a version that acquired a graph doesn't use it any more."""
        with self._lock:
            self._users[key] -= 1
            if self._users[key]:
                return
            graph = self._graphs.pop(key)
            del self._users[key]
        graph.close()

    def __len__(self) -> int:
        """How many graphs are kept."""
        with self._lock:
            return len(self._graphs)
