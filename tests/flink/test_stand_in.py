"""A streaming pipeline on Flink, from Kafka, that loses a task manager and its driver on the way.

`make test-flink` runs it: it needs Java 17 or newer, and jars that mvn fetches.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

from beam_transforms.columnar import Columns
from beam_transforms.events import RecordBatchCoder, event_batch
from beam_transforms.runner_options import runner_flags
from beam_transforms.schema import WINDOW_MS, EventKind

from .expansion_service import ExpansionService
from .flink_cluster import FlinkCluster
from .java_process import spawn, wait_until
from .kafka_broker import KafkaBroker
from .stand_in import LATENESS_MS, shard_of

pytestmark = [pytest.mark.flink, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
TOPIC = "events"
PARTITIONS = 4
ROOMS = 50
HOT_ROOM = 0
HOT = 100  # times the events of another room
WINDOWS = 40
RECORDS = 1200
EVENTS_A_RECORD = 100
START_MS = 1_750_075_200_000 // WINDOW_MS * WINDOW_MS


def _events() -> Iterator[tuple[int, Columns]]:
    """(Kafka's timestamp, a record's events), out of order by less than the allowed lateness."""
    random = np.random.default_rng(4)
    step_ms = WINDOWS * WINDOW_MS // RECORDS
    for record in range(RECORDS):
        end_ms = START_MS + (record + 1) * step_ms
        timestamp_ms = end_ms - 1 - random.integers(0, LATENESS_MS // 2, EVENTS_A_RECORD)
        live_id = random.integers(1, ROOMS, EVENTS_A_RECORD)
        live_id[random.random(EVENTS_A_RECORD) < HOT / (HOT + ROOMS - 1)] = HOT_ROOM
        yield end_ms - 1, {"timestamp_ms": np.maximum(timestamp_ms, START_MS), "live_id": live_id}


@dataclasses.dataclass
class Run:
    """What a run of the pipeline left."""

    written: dict[str, Any]
    files: list[str]
    expected: dict[str, Any]
    restored: int
    last_checkpoint: str
    resumed_from: str | None
    subtasks: list[dict[str, Any]]


class _Driver:
    """The process that submits the pipeline and holds the LOOPBACK workers."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        command = [sys.executable, "-m", "tests.flink.stand_in", *arguments]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._log = log
        self._process = spawn(command, log, ROOT, environment)

    def check(self) -> None:
        if self._process.poll() is not None:
            pytest.fail(f"the driver ended:\n{self._log.read_text(errors='replace')[-3000:]}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("flink")
    output = folder / "output"
    output.mkdir()
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}")

    with (
        KafkaBroker(folder / "kafka") as broker,
        ExpansionService(folder / "expansion") as expansion,
        FlinkCluster(folder / "cluster") as cluster,
    ):
        tell("the servers are up")
        broker.create_topic(TOPIC, PARTITIONS)
        expected = _produce(broker.address)
        tell("the events are in Kafka")
        arguments = ["--brokers", broker.address, "--topic", TOPIC, "--output", str(output), "--delay_s", "0.02"]
        arguments += ["--kafka_expansion_service", expansion.address]
        arguments += runner_flags("flink", job_endpoint=cluster.job_endpoint, checkpointing_interval=1000)

        def written() -> int:
            driver.check()
            return len(list(output.glob("*.json")))

        driver = _Driver(arguments, folder / "driver-1.log")
        try:
            wait_until(lambda: written() > len(expected) // 5, "a fifth is written", 120)
            job = next(iter(cluster.jobs()))
            cluster.wait_for_checkpoint(job)
            tell(f"{written()} of {len(expected)} files; now a task manager is killed")
            cluster.kill_task_manager()
            before = written()
            cluster.start_task_manager()
            wait_until(lambda: cluster.checkpoints(job)["restored"] > 0, "the job is restored", 60)
            tell("the job is restored")
            wait_until(lambda: written() > max(before, len(expected) // 2), "half is written", 120)
            cluster.wait_for_checkpoint(job)
            restored = cluster.checkpoints(job)["restored"]
            tell(f"{written()} of {len(expected)} files; now the driver with its workers is killed")
        finally:
            driver.kill()
        checkpoint = cluster.cancel(job)
        tell(f"the job is cancelled; {len(list(output.glob('*.json')))} files; resuming from {checkpoint}")
        driver = _Driver([*arguments, f"--savepoint_path={checkpoint}"], folder / "driver-2.log")
        try:
            wait_until(lambda: written() >= len(expected), "everything is written", 180)
            tell("everything is written")
            second = next(iter(cluster.jobs()))
            cluster.wait_for_checkpoint(second)
            restored_from = cluster.get(f"/jobs/{second}/checkpoints")["latest"]["restored"] or {}
            subtasks = cluster.subtasks(second)
        finally:
            driver.kill()
    tell("the servers are down")
    for row in subtasks:
        print(row)
    files = sorted(path.name for path in output.iterdir())
    found = {path.stem: json.loads(path.read_text()) for path in output.glob("*.json")}
    yield Run(found, files, expected, restored, checkpoint, restored_from.get("external_path"), subtasks)


def _produce(address: str) -> dict[str, Any]:
    """Writes the events to Kafka, and counts them in memory: name of a file -> what it must hold."""
    producer = KafkaProducer(bootstrap_servers=address)
    parts = []
    for record, (stamp_ms, columns) in enumerate(_events()):
        live_id = columns["live_id"]
        batch = event_batch(EventKind.COMMENT, columns["timestamp_ms"], live_id % 7, live_id, live_id)
        value = RecordBatchCoder().encode(batch)
        producer.send(TOPIC, value=value, partition=record % PARTITIONS, timestamp_ms=stamp_ms)
        parts.append(np.stack([columns["timestamp_ms"] // WINDOW_MS * WINDOW_MS + WINDOW_MS, live_id]))
    producer.flush()
    producer.close()
    keys, counts = np.unique(np.concatenate(parts, axis=1), axis=1, return_counts=True)
    expected: dict[str, Any] = {}
    for end, room, shard, count in zip(*keys.tolist(), shard_of(keys[1]).tolist(), counts.tolist(), strict=True):
        expected.setdefault(f"{shard:03d}-{end}", []).append([room, count])
    return expected


def test_nothing_is_lost_and_nothing_is_counted_twice(run: Run) -> None:
    assert run.written == run.expected


def test_a_replay_writes_the_same_files_again(run: Run) -> None:
    assert [name for name in run.files if "conflict" in name] == []


def test_the_job_was_restored_after_the_task_manager_died(run: Run) -> None:
    assert run.restored >= 1


def test_the_second_job_began_at_the_last_checkpoint_of_the_first(run: Run) -> None:
    assert run.resumed_from == run.last_checkpoint


def test_the_second_job_did_not_do_everything_again(run: Run) -> None:
    assert 0 < sum(row["records_in"] for row in run.subtasks if "WriteWindows" in row["vertex"]) < len(run.expected)


def test_both_subtasks_of_each_stage_work(run: Run) -> None:
    for stage in ("CountWindows", "WriteWindows"):
        records = [row["records_in"] for row in run.subtasks if stage in row["vertex"]]
        assert len(records) == 2 and min(records) > 0, (stage, records)
