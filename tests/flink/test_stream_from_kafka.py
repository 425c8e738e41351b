"""`foresight stream` as a process that reads from Kafka and is killed on the way, against a followed folder."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from kafka import KafkaProducer

from beam_transforms.first_only import FirstOnly
from beam_transforms.local_stream import LocalStream
from beam_transforms.read_events import DEAD_LETTERS
from beam_transforms.schema import LIVE_SCHEMA
from beam_transforms.spans import SpanPlan
from beam_transforms.streamed_lines import LATE
from tests.beam_transforms.event_logs import NOON_MS
from tests.beam_transforms.live_logs import arrivals, follow, live_log, put

from .java_process import spawn, wait_until
from .kafka_broker import KafkaBroker

pytestmark = [pytest.mark.flink, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
TOPIC = "live"
PARTITIONS = 2
MINUTES = 24
HORIZON_S, LATENESS_S = 120.0, 60.0
LAST_MS = NOON_MS + (MINUTES + 10) * 60_000
"""Of an event in each partition by which every label is known."""
CONFIG = {
    "model": {"variant": "base", "user_bins": 50, "author_bins": 20, "expert_units": [8, 8], "experts": 2},
    "training": {"batch_size": 16, "scoring_rows": 16},
    # No version, so no server: this is about what is read.
    "gate": {"first_after_windows": 1000},
    "policy": "first_only",
    "policy_options": {"horizon_s": HORIZON_S},
    "lateness_s": LATENESS_S,
    "max_lag_s": 0,
}


class _Loop:
    """A loop in a process of its own, and what it has told."""

    def __init__(self, source: str, folder: Path, name: str) -> None:
        options = {"source": source, "examples": folder / "examples", "model-dir": folder / "models"}
        options["config"] = folder / "stream.yaml"
        arguments = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        self._log = folder / f"{name}.log"
        command = [sys.executable, "-m", "foresight", "stream", *arguments, "--json"]
        self.process = spawn(command, self._log, ROOT, os.environ | {"OMP_NUM_THREADS": "1"})

    def windows(self) -> list[dict]:
        # The last line may be half-written.
        lines = self._log.read_text(errors="replace").split("\n")[:-1]
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return [record for record in records if record["event"] == "window"]

    def wait_for(self, count: int, end_ms: int) -> None:
        """Waits for so many windows, and one that ends then or later."""

        def happened() -> bool:
            assert self.process.poll() is None, self._log.read_text(errors="replace")[-3000:]
            windows = self.windows()
            return len(windows) >= count and windows[-1]["end_ms"] >= end_ms

        wait_until(happened, f"{count} windows and one that ends at {end_ms}, see {self._log}", 90)


def _lines() -> list[bytes]:
    """A log out of order and with doubled rows, in the order of its arrival, with an event in each room at the end."""
    log = live_log(3, minutes=MINUTES, events=1500)
    lines = [line for block in arrivals(log, 4, 30_000, doubled=50) for line in block.splitlines()]
    last = {"kind": "ROOM_END", "timestamp_ms": LAST_MS, "author_id": 0}
    return lines + [json.dumps(last | {"live_id": room}).encode() for room in range(PARTITIONS)]


def _produce(address: str, lines: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=address)
    for line in lines:
        row = json.loads(line)
        producer.send(TOPIC, value=line, partition=row["live_id"] % PARTITIONS, timestamp_ms=row["timestamp_ms"])
    producer.send(TOPIC, value=b"broken", partition=0)
    producer.flush()
    producer.close()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("Span-*/*/*.tfrecord")}


def test_a_killed_loop_goes_on_in_the_topic_and_learns_each_example_once(tmp_path: Path) -> None:
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(CONFIG))
    lines = _lines()
    half = len(lines) // 2
    with KafkaBroker(tmp_path / "kafka") as broker:
        broker.create_topic(TOPIC, PARTITIONS)
        _produce(broker.address, lines[:half])
        source = f"kafka://{broker.address}/{TOPIC}"
        first = _Loop(source, tmp_path, "first")
        first.wait_for(8, NOON_MS)
        first.process.kill()
        first.process.wait()
        _produce(broker.address, lines[half:])
        second = _Loop(source, tmp_path, "second")
        second.wait_for(8, LAST_MS - 60_000)
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(60) == 0

    put(tmp_path / "live", [b"\n".join(lines)])
    policy, lateness_ms = FirstOnly(HORIZON_S), round(LATENESS_S * 1000)
    by_folder = LocalStream(
        follow(tmp_path / "live"),
        tmp_path / "expected",
        LIVE_SCHEMA,
        SpanPlan(3_600_000),
        policy,
        lateness_ms=lateness_ms,
    )
    counts = by_folder.run()
    assert counts["examples"] > 100
    assert _files(tmp_path / "examples") == _files(tmp_path / "expected")
    assert not (tmp_path / "examples" / LATE).exists()

    windows = [*first.windows(), *second.windows()]
    learned = [window for window in windows if window["decision"] == "learned"]
    ends = [window["end_ms"] for window in learned]
    assert ends == sorted(set(ends))
    assert sum(window["examples"] for window in learned) == counts["examples"]
    assert windows[-1]["counts"]["examples_trained"] == counts["examples"]
    # A backlog that was read at once still closes its windows one by one.
    assert len(ends) > MINUTES
    letters = [json.loads(line) for path in (tmp_path / "examples" / DEAD_LETTERS).iterdir() for line in path.open()]
    assert [(letter["file"], letter["text"]) for letter in letters] == [(f"{TOPIC}/0", "broken")] * 2
