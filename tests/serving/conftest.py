"""A small model to publish and serve, in versions that answer differently, and the servers that serve it."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.launch import ADDRESS_VARIABLE, BINARY, RunningServer, launch, server_kind
from serving.model_service_client import ModelServiceClient
from serving.prediction_client import PredictionClient
from serving.protos import serving_api_pb2 as api
from serving.tensors import predict_request


def _expected_scores(inputs: dict[str, np.ndarray], bias: float) -> dict[str, np.ndarray]:
    ctr = 1 / (1 + np.exp(-(inputs["context"].sum(axis=1) + bias)))
    return {"ctr": ctr, "gtr": ctr * (inputs["user_id"] % 7) / 10}


def _room_inputs(rooms: int, user_id: int = 3) -> dict[str, np.ndarray]:
    context = np.random.default_rng(rooms).normal(size=(rooms, 3)).astype(np.float32)
    return {"user_id": np.full(rooms, user_id, np.int64), "context": context}


@pytest.fixture(scope="session")
def expected_scores() -> Callable[[dict[str, np.ndarray], float], dict[str, np.ndarray]]:
    """(inputs, bias) -> what the model with that bias answers."""
    return _expected_scores


@pytest.fixture(scope="session")
def room_inputs() -> Callable[..., dict[str, np.ndarray]]:
    """(rooms, user_id=3) -> inputs of the signature serving_default."""
    return _room_inputs


@pytest.fixture(scope="session")
def export_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """bias -> folder of a SavedModel with the signatures serving_default, plain and strings."""
    import keras
    import tensorflow as tf

    class Scorer(keras.layers.Layer):
        def build(self, input_shape: object) -> None:
            self.bias = self.add_weight(shape=(), initializer="zeros", name="bias")

        def call(self, context: tf.Tensor) -> tf.Tensor:
            return tf.sigmoid(tf.reduce_sum(context, axis=1) + self.bias)

    folders: dict[float, Path] = {}

    def export(bias: float) -> Path:
        if bias not in folders:
            scorer = Scorer()
            scorer.build(None)
            scorer.bias.assign(bias)
            archive = keras.export.ExportArchive()
            archive.track(scorer)

            def rank(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
                ctr = scorer(inputs["context"])
                return {"ctr": ctr, "gtr": ctr * tf.cast(inputs["user_id"] % 7, tf.float32) / 10}

            context = tf.TensorSpec((None, 3), tf.float32, name="context")
            user_id = tf.TensorSpec((None,), tf.int64, name="user_id")
            archive.add_endpoint("serving_default", rank, input_signature=[{"user_id": user_id, "context": context}])
            archive.add_endpoint("plain", lambda context: {"score": scorer(context)}, input_signature=[context])
            archive.add_endpoint(
                "strings",
                lambda text: {"text": tf.identity(text), "text_bytes": tf.identity(text)},
                input_signature=[tf.TensorSpec((None,), tf.string, name="text")],
            )
            folders[bias] = tmp_path_factory.mktemp("exported") / "model"
            archive.write_out(str(folders[bias]), verbose=False)
        return folders[bias]

    return export


@pytest.fixture
def place(export_model: Callable[[float], Path]) -> Callable[[Path, int, float], Path]:
    """Puts the model with a bias into `base`/`version` at once, as a publisher does; returns the folder."""

    def put(base: Path, version: int, bias: float) -> Path:
        base.mkdir(parents=True, exist_ok=True)
        beside = base / f".beside-{version}"
        shutil.copytree(export_model(bias), beside)
        return beside.rename(base / str(version))

    return put


@pytest.fixture
def manifest() -> dict[str, object]:
    return {
        "model_name": "ranker",
        "span": 4,
        "newest_event_ms": 1_700_000_000_000,
        "parent_version": None,
        "tasks": {"ctr": {"auc": 0.8, "gauc": 0.63, "uauc": None}},
        "decision": "blessed",
        "reasons": ["ctr gauc 0.63 >= 0.55"],
    }


@pytest.fixture
def warmup() -> list[bytes]:
    return [predict_request("any", _room_inputs(rooms)).SerializeToString() for rooms in (1, 5)]


@dataclasses.dataclass
class Served:
    """The server and what a test does with it."""

    running: RunningServer
    service: ModelServiceClient

    @staticmethod
    def config(name: str, base: Path, **policy: object) -> api.ModelConfig:
        """A model's configuration; policy: latest=N, specific=[versions], all=True, labels={label: version}."""
        config = api.ModelConfig(name=name, base_path=str(base), model_platform="tensorflow")
        if "latest" in policy:
            config.model_version_policy.latest.num_versions = policy["latest"]
        if "specific" in policy:
            config.model_version_policy.specific.versions.extend(policy["specific"])
        if "all" in policy:
            config.model_version_policy.all.SetInParent()
        config.version_labels.update(policy.get("labels", {}))
        return config

    def serve(self, name: str, base: Path, **policy: object) -> PredictionClient:
        """Makes the server serve this one model, and returns a client for it."""
        self.service.reload([self.config(name, base, **policy)])
        return PredictionClient(self.running.address, name, deadline_s=10.0)

    def wait(self, name: str, version: int, timeout_s: float = 20.0) -> None:
        self.service.wait_for_version(name, version, timeout_s)


@pytest.fixture(scope="session", params=["local", "tensorflow_serving"])
def served(request, tmp_path_factory, export_model) -> Iterator[Served]:
    kind = "local"
    if request.param == "tensorflow_serving":
        kind = server_kind()
        if kind == "local":
            pytest.skip(
                f"no TensorFlow Serving here: put {BINARY} on the PATH, or set {ADDRESS_VARIABLE} to one that sees the "
                "temporary folder of the tests, and run `pytest tests/serving`"
            )
    model_dir = tmp_path_factory.mktemp("models")
    (model_dir / "first").mkdir()
    shutil.copytree(export_model(0.0), model_dir / "first" / "1")
    with (
        launch(model_dir, "first", kind=kind, options=["--poll-seconds", "0.1"]) as running,
        ModelServiceClient(running.address) as service,
    ):
        yield Served(running, service)
