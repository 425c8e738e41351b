import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from serving.publisher import publish, published_versions
from serving.version_manifest import VersionManifest

from .scorer_model import export_scorer, scorer_inputs, scorer_weights, scores, warm_up

ROOT = Path(__file__).parents[2]

_KILLED = """
import json, os, signal, sys
from pathlib import Path
import tensorflow  # before the forks: importing it is what takes time
from serving import publisher

exported, model_dir, manifest, warmup = json.loads(sys.argv[1])
warmup = [bytes.fromhex(request) for request in warmup]

def killed_at(count):
    # Runs publish in a child that kills itself at the count-th call that changes the disk; True if it was killed.
    child = os.fork()
    if child == 0:
        calls = 0
        def counted(function):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return call
        for name in ("fsync", "rename", "replace", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        publisher.publish(exported, model_dir, manifest, warmup)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

count = 0
while True:
    count += 1
    killed = killed_at(count)
    base = Path(model_dir) / manifest["model_name"]
    files = sorted(str(file.relative_to(base)) for file in base.rglob("*"))
    print(json.dumps({"killed": killed, "files": files}), flush=True)
    if not killed:
        break
"""


@pytest.mark.slow
def test_a_kill_at_any_point_leaves_a_version_whole_or_absent(export_model, tmp_path, manifest, warmup):
    arguments = json.dumps([str(export_model(0.0)), str(tmp_path), manifest, [request.hex() for request in warmup]])
    result = subprocess.run(
        [sys.executable, "-c", _KILLED, arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    states = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(states) > 10
    assert not states[-1]["killed"]
    whole = {"saved_model.pb", "version.json", "assets.extra/tf_serving_warmup_requests", "variables/variables.index"}
    before: set[str] = set()
    partial = 0
    for state in states:
        files = set(state["files"])
        partial += any(".publish-" in file and file.endswith("saved_model.pb") for file in files)
        numbers = {file for file in files if file.isdigit()}
        assert before <= numbers
        for number in numbers:
            assert {f"{number}/{name}" for name in whole} <= files
        before = numbers
    assert partial > 3  # kills in the midst of writing did happen
    assert not any(".publish-" in file for file in states[-1]["files"])  # the last publish has cleaned up
    assert max(map(int, before)) == published_versions(tmp_path, "ranker")[-1]


_LOOP = """
import json, os, random, signal, sys, time
from pathlib import Path
import tensorflow, keras  # before the forks: importing is what takes time; nothing runs here, which a fork would break
from serving import publisher
from serving.checkpoint_publisher import CheckpointPublisher
from tests.serving.scorer_model import scorer_weights, warm_up

exported, model_dir, manifest, rename = json.loads(sys.argv[1])

def work(seed, kill_at):
    # Publishes and pushes until it is killed: by its parent, or by itself at its kill_at-th call that changes the disk.
    calls = 0
    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    for name in ("fsync", "rename", "replace", "mkdir", "link", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    generator = random.Random(seed)
    def manifest_of(number):
        return {**manifest, "tasks": {"seed": number}}
    while True:
        if generator.random() < 0.3:
            publisher.publish(exported, model_dir, manifest_of(0), warm_up(), keep=3, rename=rename)
        with CheckpointPublisher(model_dir, "ranker", keep=3, rename=rename) as pushing:
            for _ in range(generator.randint(1, 4)):
                number = generator.randint(1, 10**6)
                pushing.push(scorer_weights(number), manifest_of(number))

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            work(order["seed"], order["kill_at"])
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    if order["delay_s"] is not None:
        time.sleep(order["delay_s"])
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print(json.dumps({"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None}), flush=True)
"""

_FILES = (
    *("variables/variables.index", "variables/variables.data-00000-of-00001", "version.json"),
    *("assets.extra/tf_serving_warmup_requests", "fingerprint.pb"),
)


class Watcher(threading.Thread):
    """Looks as a server that polls does, only more often: a version that can be loaded has all its files."""

    def __init__(self, base: Path, rename: bool) -> None:
        super().__init__(daemon=True)
        self.seen: set[int] = set()
        self.wrong: list[str] = []
        self.looks = 0
        self._base, self._rename, self._stop_now = base, rename, threading.Event()

    def run(self) -> None:
        while not self._stop_now.wait(0.001):
            self.looks += 1
            for version in [path for path in self._base.iterdir() if path.name.isdigit()]:
                visible = version / "saved_model.pb"
                if self._rename and not visible.exists() and version.exists():
                    self.wrong.append(f"{version.name} is there without its graph")
                if visible.exists():
                    self.seen.add(int(version.name))
                    missing = [name for name in _FILES if not (version / name).exists()]
                    if missing and visible.exists():  # and not gone as a whole in between
                        self.wrong.append(f"{version.name} lacks {missing}")

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


def check_version(version: Path) -> None:
    """It loads as TensorFlow Serving loads it, warms up, and answers what its manifest expects."""
    from serving.local_server.servable import Servable

    weights, inputs = scorer_weights(VersionManifest.read(version).tasks["seed"]), scorer_inputs()
    servable = Servable(version)
    try:
        assert servable.warm_up() == 1
        outputs = servable.predict("", inputs)
    finally:
        servable.close()
    for name, expected in scores(weights, inputs).items():
        np.testing.assert_allclose(outputs[name], expected, atol=0 if name in ("bias", "seen") else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("rename", "kills"), [(True, 50), (False, 15)])
def test_kills_of_a_process_that_publishes_and_pushes(tmp_path, manifest, rename, kills):
    exported = export_scorer(tmp_path / "exported", scorer_weights(0))
    first = {**manifest, "tasks": {"seed": 0}}
    base, generator = tmp_path / "ranker", random.Random(5)  # noqa: S311
    publish(exported, tmp_path, first, warm_up(), rename=rename)
    watcher = Watcher(base, rename)
    watcher.start()
    checked, largest, by_itself = {1}, 1, 0
    with (tmp_path / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _LOOP, json.dumps([str(exported), str(tmp_path), first, rename])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:
            for number in range(kills):
                delayed = number % 2 == 0
                order = {
                    "seed": number,
                    "kill_at": 0 if delayed else generator.randint(1, 150),
                    "delay_s": generator.uniform(0.1, 1.5) if delayed else None,
                }
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
                line = next((line for line in process.stdout if line.startswith("{")), None)
                assert line and json.loads(line) == {"signal": 9}, (tmp_path / "errors").read_text()[-2000:]
                by_itself += not delayed
                versions = [version for version in published_versions(tmp_path, "ranker") if whole(base, version)]
                assert versions, "nothing is left to serve"
                new = [version for version in versions if version not in checked]
                assert all(version > largest for version in new)
                for version in new:
                    check_version(base / str(version))
                checked.update(new)
                largest = max([largest, *watcher.seen, *versions])
            process.stdin.close()
            process.wait(timeout=30)
    watcher.stop()
    assert watcher.wrong == []
    assert watcher.looks > 1000
    assert len(checked) > kills / 2 and by_itself >= kills // 2
    assert publish(exported, tmp_path, first, warm_up(), keep=3, rename=rename) > largest
    assert len(published_versions(tmp_path, "ranker")) == 3
    assert all(whole(base, version) for version in published_versions(tmp_path, "ranker"))
    assert not list(base.glob(".publish-*"))


def whole(base: Path, version: int) -> bool:
    return (base / str(version) / "saved_model.pb").exists()
