"""A Flink session cluster on this machine, with Beam's job server for it."""

import itertools
import json
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any

from .java_process import JavaProcess, answers, free_port, wait_until

_LOGGING = """
rootLogger.level = INFO
logger.kafka.name = org.apache.kafka
logger.kafka.level = WARN
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1.} - %m%n
"""
_METRICS_S = 2.5
_RETRY_S = 15.0


class FlinkCluster:
    """A job manager, task managers of one slot each, and a job server, for the length of a `with` block.

    The cluster keeps state in files: checkpoints below `<folder>/checkpoints`, retained when a job is cancelled. A job
    whose task manager is gone is started again from its last checkpoint as soon as there are slots for it.

    Args:
        folder: Where logs, settings and checkpoints are kept.
        task_managers: How many are started.

    Attributes:
        job_endpoint: host:port of the job server, for `--job_endpoint`.
    """

    def __init__(self, folder: Path, task_managers: int = 2) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._rpc_port, self._rest_port = free_port(), free_port()
        self._names = itertools.count(1)
        self._write_settings()
        self._logging = f"-Dlog4j.configurationFile={folder / 'log4j2.properties'}"
        self._processes: list[JavaProcess] = []
        self.task_managers: list[JavaProcess] = []
        try:
            self._start(task_managers)
        except BaseException:
            self.stop()
            raise

    def _start(self, task_managers: int) -> None:
        entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        manager = self._java("job-manager", [entry, "--configDir", str(self._folder)], 384)
        for _ in range(task_managers):
            self.start_task_manager()
        self.job_endpoint, job_server = self._job_server()
        manager.wait_for(lambda: answers(self._rest_port))
        self.wait_for_slots(task_managers)
        job_server.wait_for(lambda: answers(int(self.job_endpoint.split(":")[1])))

    def _job_server(self) -> tuple[str, JavaProcess]:
        port = free_port()
        command = ["org.apache.beam.runners.flink.FlinkJobServerDriver", "--job-host", "127.0.0.1"]
        command += ["--job-port", str(port), "--artifact-port", "0", "--expansion-port", "0"]
        command += [
            "--artifacts-dir",
            str(self._folder / "artifacts"),
            "--flink-master",
            f"127.0.0.1:{self._rest_port}",
        ]
        command += ["--flink-conf-dir", str(self._folder)]
        return f"127.0.0.1:{port}", self._java("job-server", command, 384)

    def start_task_manager(self) -> JavaProcess:
        """One more task manager, with one slot; it registers itself within a few seconds."""
        name = f"task-manager-{next(self._names)}"
        entry = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        process = self._java(name, [entry, "--configDir", str(self._folder)], 512)
        self.task_managers.append(process)
        return process

    def kill_task_manager(self) -> None:
        """Ends the first task manager at once, with everything that it held in memory."""
        process = self.task_managers.pop(0)
        self._processes.remove(process)
        process.kill()

    def wait_for_slots(self, count: int, timeout_s: float = 60.0) -> None:
        """Waits until `count` task managers are registered."""
        wait_until(lambda: len(self.get("/taskmanagers")["taskmanagers"]) >= count, f"{count} slots", timeout_s)

    def get(self, path: str) -> Any:
        """The answer of the job manager's REST interface to GET `path`; an error is asked again for a few seconds."""
        end = time.monotonic() + _RETRY_S
        while True:
            try:
                return self._ask(path)
            except OSError:  # while a leader is elected, or a job is set up
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def _ask(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self._rest_port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def jobs(self) -> dict[str, str]:
        """Job id -> status, the newest first."""
        jobs = self.get("/jobs/overview")["jobs"]
        return {job["jid"]: job["state"] for job in sorted(jobs, key=lambda job: -job["start-time"])}

    def cancel(self, job: str) -> str:
        """Cancels a job and returns the path of its last checkpoint."""
        self._ask(f"/jobs/{job}?mode=cancel", "PATCH")
        wait_until(lambda: self.jobs()[job] == "CANCELED", f"job {job} is cancelled", 60.0)
        return self.last_checkpoint(job)["external_path"]

    def last_checkpoint(self, job: str) -> dict[str, Any]:
        """What Flink tells of a job's last completed checkpoint; {} before the first one."""
        return self.get(f"/jobs/{job}/checkpoints")["latest"]["completed"] or {}

    def checkpoints(self, job: str) -> dict[str, int]:
        """How many checkpoints of a job were "completed", "failed", "restored" ..."""
        return self.get(f"/jobs/{job}/checkpoints")["counts"]

    def wait_for_checkpoint(self, job: str, timeout_s: float = 60.0) -> None:
        """Waits until one more checkpoint is complete."""
        seen = self.checkpoints(job)["completed"]
        wait_until(lambda: self.checkpoints(job)["completed"] > seen, f"a checkpoint of {job}", timeout_s)

    def subtasks(self, job: str) -> list[dict[str, Any]]:
        """For each subtask of each vertex: "vertex", "subtask" and its counters, times in ms since it was started."""
        self._read_subtasks(job)  # the answer is what the job manager knows; being asked makes it ask the task managers
        time.sleep(_METRICS_S)
        return self._read_subtasks(job)

    def _read_subtasks(self, job: str) -> list[dict[str, Any]]:
        rows = []
        for vertex in self.get(f"/jobs/{job}")["vertices"]:
            for subtask in self.get(f"/jobs/{job}/vertices/{vertex['id']}")["subtasks"]:
                metrics = subtask["metrics"]
                row = {"vertex": vertex["name"], "subtask": subtask["subtask"], "status": subtask["status"]}
                row["records_in"], row["records_out"] = metrics["read-records"], metrics["write-records"]
                row["bytes_in"] = metrics["read-bytes"]
                row["busy_ms"] = metrics["accumulated-busy-time"]
                row["backpressured_ms"] = metrics["accumulated-backpressured-time"]
                row["idle_ms"] = metrics["accumulated-idle-time"]
                rows.append(row)
        return rows

    def _java(self, name: str, command: list[str], memory_mb: int) -> JavaProcess:
        process = JavaProcess(name, "cluster", command, self._folder, memory_mb, [self._logging])
        self._processes.append(process)
        return process

    def _write_settings(self) -> None:
        values = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": self._rpc_port,
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.port": self._rest_port,
            "rest.bind-address": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": 1,
            # Sizes that Flink's shell scripts would work out.
            "taskmanager.cpu.cores": 1.0,
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.task.heap.size": "384m",
            "taskmanager.memory.framework.off-heap.size": "64m",
            "taskmanager.memory.task.off-heap.size": "64m",
            "taskmanager.memory.network.min": "32m",
            "taskmanager.memory.network.max": "32m",
            "taskmanager.memory.managed.size": "16m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "64m",
            "taskmanager.memory.jvm-overhead.max": "64m",
            "jobmanager.memory.heap.size": "384m",
            # The jars of all programs are the same ones.
            "classloader.resolve-order": "parent-first",
            "state.backend.type": "hashmap",
            "state.checkpoints.dir": (self._folder / "checkpoints").as_uri(),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 20,
            "restart-strategy.fixed-delay.delay": "1 s",
            # A task manager that is gone is noticed within seconds.
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 10_000,
            "heartbeat.rpc-failure-threshold": 2,
            "pekko.ask.timeout": "30 s",
            "metrics.fetcher.update-interval": 1000,
            "blob.server.port": 0,
            "io.tmp.dirs": self._folder / "tmp",
        }
        (self._folder / "tmp").mkdir()
        (self._folder / "log4j2.properties").write_text(_LOGGING)
        (self._folder / "flink-conf.yaml").write_text("".join(f"{name}: {value}\n" for name, value in values.items()))

    def stop(self) -> None:
        """Ends all processes; logs and checkpoints stay, copies of the jars don't."""
        for process in reversed(self._processes):
            process.kill()
        for name in ("tmp", "artifacts"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self._processes.clear()
        self.task_managers.clear()

    def __enter__(self) -> "FlinkCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
