import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.publisher import published_versions

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
