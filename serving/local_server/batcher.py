"""Batcher: computes requests together that come at about the same time."""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future

import grpc
import numpy as np

from serving.local_server.batching_parameters import BatchingParameters
from serving.local_server.serving_error import ServingError, invalid_argument

Arrays = dict[str, np.ndarray]
Compute = Callable[[Mapping[str, np.ndarray]], Arrays]


@dataclasses.dataclass(eq=False)
class _Batch:
    ready_at: float
    compute: Compute
    rows: int = 0
    requests: list[tuple[Future, Mapping[str, np.ndarray], int]] = dataclasses.field(default_factory=list)


class Batcher:
    """Puts requests with the same key into one, computes that, and takes its outputs apart.

    Only what fits together should share a key: the same version, signature, types and shapes but for the rows. A
    request gets the outputs that it would have got alone: where the computation of a batch fails, or its outputs aren't
    one row for each of the inputs', every request in it is computed by itself. Safe to use from many threads.
    """

    def __init__(self, parameters: BatchingParameters) -> None:
        """Starts the threads that compute."""
        self._parameters = parameters
        self._changed = threading.Condition()
        self._queues: dict[Hashable, collections.deque[_Batch]] = {}
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batches-{number}", daemon=True)
            for number in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, key: Hashable, compute: Compute, inputs: Mapping[str, np.ndarray], rows: int) -> Future:
        """Adds a request; its outputs, or what `compute` raises, come with the future.

        Args:
            compute: Inputs of any number of rows -> outputs; the same for all requests with the key.
            inputs: By name; each has `rows` (at least 1) entries along its first dimension.

        Raises:
            ServingError: INVALID_ARGUMENT if the request is larger than a batch, UNAVAILABLE if too many batches wait.
        """
        most = self._parameters.max_batch_size
        if rows > most:
            raise invalid_argument(f"Task size {rows} is larger than maximum input batch size {most}")
        future: Future = Future()
        with self._changed:
            if self._stopped:
                raise ServingError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
            batches = self._queues.setdefault(key, collections.deque())
            if not batches or batches[-1].rows + rows > most:
                if len(batches) >= self._parameters.max_enqueued_batches:
                    raise ServingError(
                        grpc.StatusCode.UNAVAILABLE,
                        "The batch scheduling queue to which this task was submitted is full",
                    )
                now = time.monotonic()
                if batches:
                    batches[-1].ready_at = min(batches[-1].ready_at, now)  # as full as it will get
                batches.append(_Batch(now + self._parameters.batch_timeout_micros / 1e6, compute))
                self._changed.notify()
            batch = batches[-1]
            batch.requests.append((future, inputs, rows))
            batch.rows += rows
            if batch.rows == most:
                batch.ready_at = min(batch.ready_at, time.monotonic())
                self._changed.notify()
        return future

    def stop(self) -> None:
        """Takes no more; what was taken is still computed."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._compute(batch)
            del batch  # an idle thread keeps no request alive

    def _next(self) -> _Batch | None:
        """The batch that has been ready for longest; waits for one. None after `stop`, when none is left."""
        with self._changed:
            while True:
                # Within a queue all but the last batch are ready, so the first is the one that is ready first.
                key, batches = min(self._queues.items(), key=_ready_at, default=(None, None))
                if batches is None:
                    if self._stopped:
                        return None
                    self._changed.wait()
                    continue
                wait_s = batches[0].ready_at - time.monotonic()
                if wait_s > 0 and not self._stopped:
                    self._changed.wait(wait_s)
                    continue
                batch = batches.popleft()
                if not batches:
                    del self._queues[key]
                if self._queues:
                    self._changed.notify()
                return batch

    def _compute(self, batch: _Batch) -> None:
        # Whoever gave up meanwhile isn't computed.
        requests = [request for request in batch.requests if request[0].set_running_or_notify_cancel()]
        if not requests:
            return
        sizes = [rows for _, _, rows in requests]
        padded = self._parameters.padded(sum(sizes))
        try:
            if len(requests) == 1 and padded == sizes[0]:
                parts = [batch.compute(requests[0][1])]
            else:
                merged = _merged([inputs for _, inputs, _ in requests], padded - sum(sizes))
                parts = _split(batch.compute(merged), sizes, padded)
        except Exception as error:  # nobody's request may fail for another's
            if len(requests) == 1:
                requests[0][0].set_exception(error)
                return
            for future, inputs, _ in requests:
                _alone(batch.compute, future, inputs)
            return
        for (future, _, _), outputs in zip(requests, parts, strict=True):
            future.set_result(outputs)


def _ready_at(queue: tuple[Hashable, collections.deque[_Batch]]) -> float:
    return queue[1][0].ready_at


def _alone(compute: Compute, future: Future, inputs: Mapping[str, np.ndarray]) -> None:
    try:
        future.set_result(compute(inputs))
    except Exception as error:  # it belongs to whoever waits for the future
        future.set_exception(error)


def _merged(requests: list[Mapping[str, np.ndarray]], padding: int) -> Arrays:
    """One request of all rows; filled up with the first row of the last one, which is sure to be a valid row."""
    merged = {}
    for name in requests[0]:
        arrays = [inputs[name] for inputs in requests]
        if padding:
            arrays.append(np.repeat(arrays[-1][:1], padding, axis=0))
        merged[name] = np.concatenate(arrays)
    return merged


def _split(outputs: Arrays, sizes: list[int], rows: int) -> list[Arrays]:
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise ValueError(f"output {name!r} has shape {array.shape}, expected {rows} rows")
    ends = np.cumsum(sizes)
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]
