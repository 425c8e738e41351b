"""The streaming pipeline on Flink, from Kafka, that loses a task manager and its driver on the way, against the batch.

`make test-flink` runs it: it needs Java 17 or newer, and jars that mvn fetches.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

from beam_transforms.columnar import Columns
from beam_transforms.online_store import open_online_store
from beam_transforms.pipeline import build_examples
from beam_transforms.runner_options import runner_flags
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS
from beam_transforms.sources.line_files import LineFiles
from beam_transforms.streamed_lines import LATE
from tests.beam_transforms.event_logs import read_examples
from tests.beam_transforms.live_logs import CODEBOOK, LENGTHS, SCHEMA, WIDTH, put, stored

from .expansion_service import ExpansionService
from .flink_cluster import FlinkCluster
from .hot_room_log import HOT_ROOM, STREAM_SCHEMA, USERS, hot_room_log, lines_of, records
from .java_process import spawn, wait_until
from .kafka_broker import KafkaBroker
from .stream_driver import PLAN, POLICY

pytestmark = [pytest.mark.flink, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
TOPIC = "events"
PARTITIONS = 4
MINUTES = 60
QUIET_MS = 120_000  # from the last event to one by which all labels are known
BEFORE_NOW_MS = 66 * 60_000  # when the log begins: its partitions' watermarks go to the wall clock at their ends
PATIENCE_S = 500  # for what takes one or two minutes on two free cores; most is written late, stage after stage
HARNESS_ERROR = "Error received from SDK harness"


@dataclasses.dataclass
class Run:
    """What a run of the pipeline left, and what a batch run over the same log gives."""

    found: Columns
    expected: Columns
    found_store: dict
    expected_store: dict
    late: list[str]
    restored: int
    last_checkpoint: str
    resumed_from: str | None
    subtasks: list[dict[str, Any]]


class _Driver:
    """The process that submits the pipeline and holds the LOOPBACK workers."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        command = [sys.executable, "-m", "tests.flink.stream_driver", *arguments]
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


def _check_logs(folder: Path) -> None:
    """Fails with what a worker raised: Flink would start the job again and again."""
    for log in folder.glob("cluster/task-manager-*.log"):
        text = log.read_text(errors="replace")
        at = text.find(HARNESS_ERROR)
        if at >= 0:
            pytest.fail(f"{log.name}: {text[at : at + 3000]}")


def _written_until(output: Path) -> int:
    """The newest window of which examples are written, by its end in ms."""
    ends = [int(path.name.split("-")[1]) for path in output.glob("Span-*/*/examples-*.tfrecord")]
    return max(ends, default=0)


def _produce(address: str, log: dict) -> None:
    producer = KafkaProducer(bootstrap_servers=address)
    for number, (stamp_ms, lines) in enumerate(records(log)):
        producer.send(TOPIC, value=lines, partition=number % PARTITIONS, timestamp_ms=stamp_ms)
    producer.flush()
    producer.close()


def _batch(folder: Path, log: dict, as_of_ms: int) -> tuple[Columns, dict]:
    put(folder / "lines", [lines_of(log)])
    short = {name: getattr(SCHEMA, name) for name in ("sequence_length", "entered_authors_length")}
    source = LineFiles([folder / "lines"], dataclasses.replace(LIVE_SCHEMA, **short), WIDTH, True)
    store = folder / "batch_store"
    options = {"codebook": CODEBOOK, "content_lengths": LENGTHS, "store": store, "as_of_ms": as_of_ms}
    summary = build_examples(source, folder / "batch", PLAN, POLICY, **options)
    assert not summary.immature and not summary.dead_letters
    return read_examples(folder / "batch", STREAM_SCHEMA), stored(store, STREAM_SCHEMA, as_of_ms, USERS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("flink")
    output, store = folder / "output", folder / "store"
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    with (
        KafkaBroker(folder / "kafka") as broker,
        ExpansionService(folder / "expansion") as expansion,
        FlinkCluster(folder / "cluster") as cluster,
    ):
        tell("the servers are up")
        broker.create_topic(TOPIC, PARTITIONS)
        start_ms = (int(time.time() * 1000) - BEFORE_NOW_MS) // WINDOW_MS * WINDOW_MS
        length_ms = MINUTES * 60_000
        log = hot_room_log(start_ms, MINUTES, QUIET_MS)
        _produce(broker.address, log)
        tell(f"{log['events'].num_rows:,} events are in Kafka")
        arguments = ["--brokers", broker.address, "--topic", TOPIC, "--output", str(output), "--store", str(store)]
        arguments += ["--kafka_expansion_service", expansion.address]
        arguments += runner_flags("flink", job_endpoint=cluster.job_endpoint, checkpointing_interval=2000)

        def wait(happened: Callable[[], bool], what: str) -> None:
            def checked() -> bool:
                driver.check()
                _check_logs(folder)
                time.sleep(0.5)
                return happened()

            try:
                wait_until(checked, what, PATIENCE_S)
            except TimeoutError as error:
                tell(f"{error}")
                tell(f"{part():.0%} is written, the store holds as of {(_head_ms(store) - start_ms) / length_ms:.0%}")
                for known in cluster.jobs():
                    tell(f"job {known}: {cluster.jobs()[known]}, checkpoints {cluster.checkpoints(known)}")
                    print(*cluster.subtasks(known), sep="\n")
                raise

        def part() -> float:
            return (_written_until(output) - start_ms) / length_ms

        driver = _Driver(arguments, folder / "driver-1.log")
        try:
            wait(lambda: part() > 0.25, "a quarter is written")
            job = next(iter(cluster.jobs()))
            cluster.wait_for_checkpoint(job)
            tell(f"{part():.0%} is written; now a task manager is killed")
            cluster.kill_task_manager()
            before = part()
            cluster.start_task_manager()
            wait(lambda: cluster.checkpoints(job)["restored"] > 0, "the job is restored")
            tell("the job is restored")
            wait(lambda: part() > max(before + 0.1, 0.5), "half is written")
            cluster.wait_for_checkpoint(job)
            restored = cluster.checkpoints(job)["restored"]
            subtasks = cluster.subtasks(job)
            tell(f"{part():.0%} is written; now the driver with its workers is killed")
        finally:
            driver.kill()
        checkpoint = cluster.cancel(job)
        tell(f"the job is cancelled; {part():.0%} is written; resuming from {checkpoint}")
        driver = _Driver([*arguments, f"--savepoint_path={checkpoint}"], folder / "driver-2.log")
        try:
            # By then all labels have been final for a while.
            done_ms = start_ms + length_ms + QUIET_MS + WINDOW_MS
            wait(lambda: _head_ms(store) >= done_ms, "the store is at the end")
            tell("the store is at the end")
            second = next(iter(cluster.jobs()))
            cluster.wait_for_checkpoint(second)
            restored_from = cluster.get(f"/jobs/{second}/checkpoints")["latest"]["restored"] or {}
            subtasks += cluster.subtasks(second)
            tell("the second job has been asked")
        finally:
            driver.kill()
        cluster.cancel(second)
    tell("the servers are down")
    for row in subtasks:
        print(row)
    head_ms = _head_ms(store)
    expected, expected_store = _batch(folder, log, head_ms)
    tell("the batch is done")
    events = log["events"].column("live_id").to_numpy()
    print(f"{np.mean(events == HOT_ROOM):.0%} of {len(events):,} events are the hot room's")
    late = sorted(str(path) for path in (output / LATE).glob("*"))
    found_store = stored(store, STREAM_SCHEMA, head_ms, USERS)
    yield Run(
        read_examples(output, STREAM_SCHEMA), expected, found_store, expected_store, late,
        restored, checkpoint, restored_from.get("external_path"), subtasks,
    )  # fmt: skip


def _head_ms(location: Path) -> int:
    """As of when an online store holds; 0 while there is none."""
    if not location.exists():
        return 0
    with open_online_store(location) as store:
        return store.as_of_ms


def test_nothing_is_lost_and_nothing_is_written_twice(run: Run) -> None:
    assert len(run.expected["live_id"]) > 5000
    for name, values in run.expected.items():
        np.testing.assert_array_equal(run.found[name], values, err_msg=name)


def test_the_online_store_holds_what_a_batch_run_stores(run: Run) -> None:
    assert len(run.expected_store["live"]) > 10
    assert run.found_store == run.expected_store


def test_nothing_was_late(run: Run) -> None:
    assert run.late == []


def test_the_job_was_restored_after_the_task_manager_died(run: Run) -> None:
    assert run.restored >= 1


def test_the_second_job_began_at_the_last_checkpoint_of_the_first(run: Run) -> None:
    assert run.resumed_from == run.last_checkpoint


def test_the_hot_room_is_no_straggler(run: Run) -> None:
    """Both subtasks of each stage get their share, although most events are one room's: it gets rows of windows."""
    # Flink names a step by what runs in it. How much is left to the second job differs: both jobs' counters are added.
    for stage, name in {"authors": "{Features, OnlineStore}", "rooms": "Lines_late_products"}.items():
        rows = [row for row in run.subtasks if name in row["vertex"] and "ReadLive" not in row["vertex"]]
        assert {row["subtask"] for row in rows} == {0, 1}
        got = {
            column: [sum(row[column] for row in rows if row["subtask"] == subtask) for subtask in (0, 1)]
            for column in ("records_in", "bytes_in", "busy_ms")
        }
        print(stage, got)
        # Not the bytes: the hot room's examples, one for each impression, do go through its shard.
        assert 0 < max(got["records_in"]) < 4 * min(got["records_in"]), (stage, got)
