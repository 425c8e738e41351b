"""RequestMetrics: counters of the server in the form that Prometheus reads."""

import bisect
import collections
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator

import grpc

from serving.local_server.serving_error import ServingError

_BOUNDS_US = tuple(10 * 1.8**power for power in range(33))
"""Upper bounds of the latency buckets in microseconds, as TensorFlow Serving has them."""


class RequestMetrics:
    """Requests by model and status, and the time that the successful ones took. Names are TensorFlow Serving's."""

    def __init__(self, models: Callable[[], Collection[str]]) -> None:
        """`models` says which names there are; other names' requests are counted together, under ""."""
        self._models = models
        self._lock = threading.Lock()
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._buckets: dict[tuple[str, str, str], list[int]] = {}
        self._sums_us: dict[tuple[str, str, str], float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def observe(self, model_name: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts the request that the `with` block answers; a ServingError in it is counted under its code."""
        start = time.perf_counter()
        status = grpc.StatusCode.INTERNAL
        try:
            yield
            status = grpc.StatusCode.OK
        except ServingError as error:
            status = error.code
            raise
        finally:
            self._record((model_name, api, entrypoint), status, (time.perf_counter() - start) * 1e6)

    def count(self, model_name: str, status: grpc.StatusCode) -> None:
        """Counts a request that was refused before anything was computed; `model_name` "" if it isn't known."""
        with self._lock:
            self._counts[model_name, status.name] += 1

    def page(self) -> str:
        """All counters in Prometheus' text format."""
        with self._lock:
            lines = ["# TYPE :tensorflow:serving:request_count counter"]
            lines += [
                f':tensorflow:serving:request_count{{model_name="{_escape(model)}",status="{status}"}} {count}'
                for (model, status), count in sorted(self._counts.items())
            ]
            lines.append("# TYPE :tensorflow:serving:request_latency histogram")
            for key, buckets in sorted(self._buckets.items()):
                model, api, entrypoint = key
                labels = f'model_name="{_escape(model)}",API="{api}",entrypoint="{entrypoint}"'
                name, total = ":tensorflow:serving:request_latency", 0
                for bound, count in zip([*map("{:g}".format, _BOUNDS_US), "+Inf"], buckets, strict=True):
                    total += count
                    lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
                lines += [f"{name}_sum{{{labels}}} {self._sums_us[key]:.6g}", f"{name}_count{{{labels}}} {total}"]
        return "\n".join(lines) + "\n"

    def _record(self, key: tuple[str, str, str], status: grpc.StatusCode, microseconds: float) -> None:
        # A name that no model has must not make a new counter for each request that invents one.
        model = key[0] if status == grpc.StatusCode.OK or key[0] in self._models() else ""
        with self._lock:
            self._counts[model, status.name] += 1
            if status == grpc.StatusCode.OK:
                buckets = self._buckets.setdefault(key, [0] * (len(_BOUNDS_US) + 1))
                buckets[bisect.bisect_left(_BOUNDS_US, microseconds)] += 1
                self._sums_us[key] += microseconds


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
