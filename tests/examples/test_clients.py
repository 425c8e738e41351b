"""The clients in examples/clients do what the documentation says, against a local server."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from beam_transforms.online_store import open_online_store
from beam_transforms.schema import LIVE_SCHEMA
from serving.launch import RunningServer, launch

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "examples/clients"
ROWS = 8
_UNREACHED = re.compile(
    r"dial tcp|no such host|i/o timeout|connection refused|Unknown host|Could not transfer|offline mode", re.IGNORECASE
)


def _inputs() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    user_id = np.full(ROWS, 2**40 + 3)  # doesn't fit 32 bits, nor a float32
    return {"user_id": user_id, "context": generator.normal(size=(ROWS, 3)).astype(np.float32)}


def _expected(inputs: dict[str, np.ndarray]) -> list[tuple[int, float]]:
    scores = 1 / (1 + np.exp(-(inputs["context"].sum(axis=1) + inputs["user_id"] % 7 / 10)))
    return [(int(row), float(scores[row])) for row in np.argsort(-scores)[:5]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    import tensorflow as tf

    module = tf.Module()

    def score(user_id, context):
        return {"ctr": tf.sigmoid(tf.reduce_sum(context, axis=1) + tf.cast(user_id % 7, tf.float32) / 10)}

    signature = tf.function(score).get_concrete_function(
        tf.TensorSpec((None,), tf.int64, name="user_id"), tf.TensorSpec((None, 3), tf.float32, name="context")
    )
    models = tmp_path_factory.mktemp("models")
    tf.saved_model.save(module, str(models / "live_ranker" / "7"), signatures={"serving_default": signature})
    with launch(models, "live_ranker", kind="local") as running:
        yield running


@pytest.fixture(scope="module")
def request_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("request") / "request.json"
    path.write_text(json.dumps({"inputs": {name: values.tolist() for name, values in _inputs().items()}}))
    return path


def _run(*command: object, cwd: Path = ROOT, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    if done.returncode and _UNREACHED.search(done.stdout + done.stderr):
        pytest.skip(f"{command[0]} can't fetch what the example is built from; run this where it can: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)  # Maven colours


def _check(output: str) -> None:
    """Version 7, and the five best rows with their scores."""
    first, *lines = output.strip().splitlines()
    assert first == "version 7"
    found = [(int(row), float(score)) for row, score in (line.split() for line in lines)]
    expected = _expected(_inputs())
    assert [row for row, _ in found] == [row for row, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=2e-6)


def test_python(server: RunningServer, request_file: Path):
    arguments = ["--request", request_file, "--address", server.address, "--deadline", "10"]
    _check(_run(sys.executable, CLIENTS / "python/client.py", *arguments))


def test_curl(server: RunningServer, request_file: Path):
    if shutil.which("curl") is None:
        pytest.skip("needs curl on the PATH: apt-get install curl")
    answer = json.loads(_run(CLIENTS / "curl/predict.sh", request_file, server.rest_address))
    scores = np.array(answer["outputs"]["ctr"] if isinstance(answer["outputs"], dict) else answer["outputs"])
    assert [(row, scores[row]) for row, _ in _expected(_inputs())] == [
        (row, pytest.approx(score, abs=2e-6)) for row, score in _expected(_inputs())
    ]


def test_curl_ends_with_the_servers_error(server: RunningServer, tmp_path: Path):
    if shutil.which("curl") is None:
        pytest.skip("needs curl on the PATH: apt-get install curl")
    (tmp_path / "request.json").write_text('{"inputs": {"context": [[0.0, 0.0, 0.0]]}}')
    done = subprocess.run(
        [CLIENTS / "curl/predict.sh", tmp_path / "request.json", server.rest_address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "user_id" in json.loads(done.stdout)["error"]


def test_the_request_is_written_from_the_store(tmp_path: Path):
    rooms = np.arange(100, 105)
    ids = {"live_id": rooms, "author_id": rooms // 2, "user_id": np.full(5, 17)}
    tables = {}
    for key, features in LIVE_SCHEMA.stored.items():
        names = dict.fromkeys([*key, "author_id"]) if key == ("live_id",) else key
        columns = {name: ids[name] for name in names}
        columns |= {
            feature.name: np.ones((5, *feature.shape), feature.dtype)
            for feature in features
            if feature.name not in columns
        }
        tables[key] = [columns]
    with open_online_store(tmp_path / "store", readonly=False) as store:
        store.write(LIVE_SCHEMA, 1_750_000_020_000, tables, rooms)
    path = tmp_path / "request.json"
    said = _run(sys.executable, CLIENTS / "request.py", path, "--store", tmp_path / "store", "--limit", 3)
    assert said.strip() == f"{path}: 3 rooms; row 0 is room 100"
    inputs = json.loads(path.read_text())["inputs"]
    assert list(inputs) == [feature.name for feature in LIVE_SCHEMA.inputs]
    for feature in LIVE_SCHEMA.inputs:  # the clients tell int64 from float32 by the numbers' form
        column = np.array(inputs[feature.name])
        assert column.shape == (3, *feature.shape)
        assert column.dtype.kind == ("i" if feature.dtype == "int64" else "f")


@pytest.mark.skipif(shutil.which("gofmt") is None, reason="needs gofmt on the PATH: install Go")
def test_go_is_formatted():
    assert _run("gofmt", "-l", CLIENTS / "go") == ""


def test_versions_are_pinned():
    go = (CLIENTS / "go/go.mod").read_text()
    assert re.search(r"google\.golang\.org/grpc v\d+\.\d+\.\d+\n", go)
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    project = ElementTree.parse(CLIENTS / "java/pom.xml").getroot()  # noqa: S314 - a file of our own
    properties = {entry.tag.partition("}")[2]: entry.text for entry in project.find("m:properties", space)}
    for place in (".//m:dependency", ".//m:plugin", ".//m:extension"):
        for entry in project.iterfind(place, space):
            version = entry.find("m:version", space).text
            version = re.sub(r"\$\{(.*)\}", lambda match: properties[match[1]], version)
            assert re.fullmatch(r"\d+(\.\d+)+", version), entry.find("m:artifactId", space).text


@pytest.fixture(scope="module")
def java(tmp_path_factory):
    """The compiled example in a folder of its own, and its descriptors; protoc comes with it."""
    if shutil.which("mvn") is None or shutil.which("javac") is None:
        pytest.skip("needs Java 17 and Maven on the PATH: tools/servers.sh")
    folder = tmp_path_factory.mktemp("clients") / "clients"
    shutil.copytree(CLIENTS, folder, ignore=shutil.ignore_patterns("build"))
    _run(sys.executable, folder / "descriptors.py", folder / "serving.desc")
    _run(
        "mvn",
        "-B",
        "-q",
        "-Dstyle.color=never",
        "-f",
        folder / "java/pom.xml",
        "compile",
        f"-Ddescriptors={folder}/serving.desc",
    )
    return folder


@pytest.mark.slow
def test_java(server: RunningServer, request_file: Path, java: Path):
    arguments = f"request={request_file} address={server.address} deadline_ms=10000"
    _check(
        _run(
            *("mvn", "-B", "-q", "-f", java / "java/pom.xml", "compile", "exec:java"),
            *(f"-Ddescriptors={java}/serving.desc", f"-Dexec.args={arguments}"),
        )
    )


@pytest.mark.slow
def test_go(server: RunningServer, request_file: Path, java: Path):
    """With the protoc that Maven brought, unless there is another."""
    if shutil.which("go") is None:
        pytest.skip("needs Go 1.24 or newer on the PATH")
    protoc = shutil.which("protoc") or str(java / "java/build/protoc")
    _run(java / "go/generate.sh", PROTOC=protoc, PYTHON=sys.executable, GOFLAGS="-buildvcs=false")
    _run("go", "build", "-o", "build/rank", ".", cwd=java / "go", GOFLAGS="-buildvcs=false")
    arguments = ["-request", request_file, "-address", server.address, "-deadline", "10s"]
    _check(_run(java / "go/build/rank", *arguments))
