"""`foresight stream` as a process, over a small log replayed in front of it, with a server: versions that answer."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from beam_transforms.online_store import open_online_store
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.replay import Replay
from beam_transforms.sources.simulator import SimulatorConfig, simulate
from serving.client import RankingClient
from serving.version_manifest import VersionManifest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CONFIG = {
    "model": {
        "variant": "statistic", "user_bins": 200, "author_bins": 50, "expert_units": [8, 8], "experts": 2,
        "model_width": 8, "forecaster_layers": 1, "forecaster_heads": 2,
    },
    "training": {"batch_size": 32, "scoring_rows": 32},
    "gate": {"first_after_windows": 2, "smallest_auc": 0.01, "fewest_positives": 1, "largest_fall": 1.0},
}  # fmt: skip
_SPEED = 30.0


class Stream:
    """A loop in a process of its own, and the records that it has told."""

    def __init__(self, folder):
        options = {"source": "live", "examples": "examples", "model-dir": "models", "store": "store"}
        arguments = [word for name, path in options.items() for word in (f"--{name}", str(folder / path))]
        self.records = []
        arguments += ["--config", str(folder / "stream.yaml"), "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "foresight", "stream", *arguments],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.records.append(json.loads(line))

    def of(self, event):
        return [record for record in list(self.records) if record["event"] == event]

    def wait_for(self, what, condition, timeout_s=240.0):
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, (what, self.records[-3:])
            assert time.monotonic() < end, (what, self.records[-3:])
            time.sleep(0.1)

    def stop(self, number):
        self.process.send_signal(number)
        status = self.process.wait(90)
        self._reader.join(10)
        return status


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "live").mkdir()
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def _replay(folder, stopping):
    def sleep(seconds):
        if stopping.wait(seconds):
            raise KeyboardInterrupt

    simulate(SimulatorConfig(users=400, authors=12, duration_s=7200, impressions_per_user_day=400.0), folder / "log")
    source = open_source("kuailive_m3", folder / "log")
    try:
        Replay(source, folder / "live", _SPEED, shift=True, sleep=sleep).run()
    except KeyboardInterrupt:
        return


def test_versions_appear_and_answer_and_a_stopped_loop_goes_on(folder):
    stopping = threading.Event()
    player = threading.Thread(target=_replay, args=(folder, stopping))
    stream = Stream(folder)
    try:
        stream.wait_for("the start", lambda: stream.of("start"))
        player.start()

        def served():
            return [entry for record in stream.of("window") for entry in record["served"]]

        stream.wait_for("three versions", lambda: len(served()) >= 3)
        address = stream.of("server")[0]["address"]
        with (
            open_online_store(str(folder / "store")) as store,
            RankingClient(address, "live_ranker", store, deadline_s=20.0) as client,
        ):
            ranking = client.rank(0)
            newest = ranking.version
            assert len(ranking.rooms) == len(store.live_ids) > 0
            assert newest >= served()[-1]["version"] > 1
        assert stream.stop(signal.SIGINT) == 0

        windows = stream.of("window")
        ends = [record["end_ms"] for record in windows]
        assert ends == sorted(set(ends))
        assert {record["decision"] for record in windows} <= {"learned", "empty"}
        versions = [entry["version"] for entry in served()]
        assert versions == sorted(set(versions))
        for entry in served():
            assert set(entry["seconds"]) == {"push", "start", "load", "promote", "answer"}
            for window in entry["windows"]:
                # The window's end comes before its close is seen, and its newest event before its end.
                assert 0 < window["close_to_answer_s"] <= window["end_to_answer_s"] + 0.1
                assert window["end_to_answer_s"] <= window["label_to_served_s"] < 240
        first = json.loads((folder / "examples" / "stream" / "stream.json").read_text())
        assert first["state"] == "ended"
        assert first["freshness"]["close_to_answer_s"]["windows"] >= 3
        base = folder / "models" / "live_ranker"
        for path in base.iterdir():
            if path.name.isdigit():
                manifest = VersionManifest.read(path)
                assert manifest.decision == "blessed"
                assert manifest.span == manifest.newest_event_ms // 3_600_000
                assert manifest.parent_version == (int(path.name) - 1 or None)
                assert manifest.tasks["ctr"]["rows"] > 0

        again = Stream(folder)
        try:
            newest = max(int(path.name) for path in base.iterdir() if path.name.isdigit())

            def answering():
                return [entry["version"] for record in again.of("window") for entry in record["served"]]

            # What was there is served before anything is learned.
            again.wait_for("another version", lambda: len(answering()) >= 2)
            assert answering()[0] == newest < answering()[1]
            assert "the window that ended at" in again.of("start")[0]["start"]
            assert again.of("window")[0]["decision"] == "repeated"
            assert again.of("window")[0]["end_ms"] == ends[-1]
            assert again.of("window")[1]["end_ms"] > ends[-1]
            assert again.stop(signal.SIGTERM) == 0
        finally:
            again.process.kill()
            again.process.wait()
        last = again.of("window")[-1]["counts"]
        learned = {record["end_ms"] for record in (*windows, *again.of("window")) if record["decision"] == "learned"}
        assert last["windows_trained"] == len(learned)
    finally:
        stopping.set()
        stream.process.kill()
        stream.process.wait()
        if player.is_alive():
            player.join(30)
