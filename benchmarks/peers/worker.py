"""Two frameworks that don't fit in one process, measured in turn: a worker a framework, commanded line by line."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}


class Worker:
    """A process that runs `python -m module *arguments`, which calls `serve`; a context manager that ends it.

    Args:
        module: Module to run.
        arguments: Of its command line.
        environment: Variables beside those that hold every library to one thread.
    """

    def __init__(self, module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        process = subprocess.Popen(  # noqa: S603 (a module of ours)
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD, **(environment or {})},
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a worker needs both of its pipes")
        self._process, self._requests, self._answers = process, process.stdin, process.stdout
        self.variants: list[str] = self._read()

    def time(self, variant: str, repeats: int) -> dict[str, list[float]]:
        """Seconds of `repeats` calls one after the other: {"cpu": of the worker's process, "wall"}."""
        return self._ask({"variant": variant, "repeats": repeats})

    def _ask(self, request: dict[str, Any]) -> Any:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return self._read()

    def _read(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"a benchmark's worker ended with status {self._process.wait()}: see its error output")
        return json.loads(line)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.close()
        self._process.wait(timeout=60)
        self._answers.close()


def serve(variants: Mapping[str, Callable[[], object]]) -> None:
    """Warms each variant, says that it is ready, and times what the other side asks for until that closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    for call in variants.values():
        for _ in range(3):
            call()
    _answer(answers, list(variants))
    for line in sys.stdin:
        request = json.loads(line)
        call = variants[request["variant"]]
        times: dict[str, list[float]] = {"cpu": [], "wall": []}
        for _ in range(request["repeats"]):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times["cpu"].append(time.process_time() - cpu)
            times["wall"].append(time.perf_counter() - wall)
        _answer(answers, times)


def _answer(answers: Any, value: object) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()
