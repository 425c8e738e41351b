"""Puts a new version of a model where model servers look for it: whole or not at all."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.durable_files import copy_durably, sync_file, sync_folder, write_durably
from serving.publish_error import PublishError
from serving.version_folders import GRAPH_FILE, VersionFolders
from serving.version_manifest import MANIFEST_FILE, VersionManifest

MAX_WARM_UP_REQUESTS = 1000
"""TensorFlow Serving refuses a version that brings more."""

_WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"


def publish(
    exported: Path,
    model_dir: Path,
    manifest: Mapping[str, Any],
    warmup: Sequence[Any],
    keep: int = 5,
    *,
    rename: bool = True,
    protected: Collection[int] = (),
) -> int:
    """Publishes a SavedModel as the next version, `model_dir`/`manifest["model_name"]`/VERSION, and returns VERSION.

    The version is written beside the others under a name that no server takes for one, to the disk, together with
    manifest and warm-up requests. It is loaded with the loader that TensorFlow Serving uses, has to answer each warm-up
    request with finite numbers, and then is renamed: a server sees all of it or nothing, whenever this process is
    killed. Version numbers only grow, also when versions are deleted. Then all but the `keep` newest versions are
    removed, each by a rename first, so that none is seen by half; one that a server has loaded stays in its memory.

    New weights under the graph of a version that is there already are published by `CheckpointPublisher`, in a fraction
    of the time.

    Args:
        exported: Folder of the SavedModel; it is copied and stays.
        model_dir: Folder of all models; it is made if it doesn't exist.
        manifest: The fields of `VersionManifest`.
        warmup: 1 to 1000 requests, PredictRequest messages or their bytes (see `serving.tensors.predict_request`). The
            server answers them before it lets a version have real requests; their model name is set here.
        keep: Newest versions to keep, at least 2. Folders without a manifest aren't counted and stay.
        rename: False where a folder can't be renamed in one step, as in an object store: see `VersionFolders` for what
            holds then. `saved_model.pb` still comes last.
        protected: Versions to keep however old they are, such as those that a server's labels are on.

    Raises:
        ValueError: An argument is wrong.
        PublishError: Another process is publishing this model, the export can't be served, or it can't be written (the
            disk is full, for example). Nothing is visible then.
    """
    checked = VersionManifest.from_dict(manifest)
    exported = Path(exported)
    folders = VersionFolders(Path(model_dir) / checked.model_name, keep, rename)
    if not (exported / GRAPH_FILE).is_file():
        raise ValueError(f"{exported} is not an exported model: it has no file {GRAPH_FILE}")
    records = _warm_up_records(checked.model_name, warmup)

    def fill(candidate: Path, version: int) -> None:
        copy_durably(exported, candidate)
        write_durably(candidate / MANIFEST_FILE, checked.to_json(version).encode())
        _write_warm_up(candidate / _WARM_UP_FILE, records)
        for folder in (candidate / _WARM_UP_FILE).parent, candidate:
            sync_folder(folder)
        _check(candidate, records)

    return folders.add(fill, protected)


def published_versions(model_dir: Path, model_name: str) -> list[int]:
    """The versions in `model_dir`/`model_name`, ascending."""
    return VersionFolders(Path(model_dir) / model_name).numbers()


def _warm_up_records(model_name: str, warmup: Sequence[Any]) -> list[bytes]:
    """Serialized PredictionLog messages."""
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    if not 1 <= len(warmup) <= MAX_WARM_UP_REQUESTS:
        raise ValueError(f"warmup must hold 1 to {MAX_WARM_UP_REQUESTS} requests, got {len(warmup)}")
    records = []
    for index, request in enumerate(warmup):
        try:
            data = request if isinstance(request, bytes) else request.SerializeToString()
            parsed = predict_pb2.PredictRequest.FromString(data)
        except (AttributeError, DecodeError) as error:
            raise ValueError(f"warmup[{index}] is neither a PredictRequest nor the bytes of one: {error}") from error
        parsed.model_spec.name = model_name
        log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=parsed))
        records.append(log.SerializeToString())
    return records


def _write_warm_up(path: Path, records: list[bytes]) -> None:
    import tensorflow as tf

    path.parent.mkdir(exist_ok=True)
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
    except tf.errors.OpError as error:
        raise OSError(f"writing {path.name}: {error.message}") from error
    sync_file(path)


def _check(candidate: Path, records: list[bytes]) -> None:
    """Loads the version as TensorFlow Serving does and asks it the warm-up requests."""
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from serving.local_server.servable import Servable
    from serving.local_server.serving_error import ServingError

    try:
        servable = Servable(candidate)
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise PublishError(f"the export can't be loaded the way TensorFlow Serving loads it: {error}") from error
    index = 0
    try:
        servable.signature("")  # clients call the default one when they name none
        for index, record in enumerate(records):
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = servable.decode(request.model_spec.signature_name, request.inputs)
            outputs = servable.predict(request.model_spec.signature_name, inputs, request.output_filter)
            for name, array in outputs.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise PublishError(f"output {name!r} of the export is not finite for warm-up request {index}")
    except ServingError as error:
        raise PublishError(f"the export can't answer warm-up request {index}: {error.message}") from error
    finally:
        servable.close()
