"""Puts a new version of a model where model servers look for it: whole or not at all."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from serving.durable_files import copy_durably, replace_durably, sync_folder, write_durably
from serving.publish_error import PublishError
from serving.version_manifest import MANIFEST_FILE, VersionManifest

MAX_WARM_UP_REQUESTS = 1000
"""TensorFlow Serving refuses a version that brings more."""

_WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
_STAGING_PREFIX = ".publish-"  # no version: servers look only at names that are whole numbers
_LOCK_FILE = ".publish.lock"
_LAST_VERSION_FILE = ".last_version"
_LARGEST_VERSION = 2**63 - 1

_log = logging.getLogger(__name__)


def publish(exported: Path, model_dir: Path, manifest: Mapping[str, Any], warmup: Sequence[Any]) -> int:
    """Publishes a SavedModel as the next version, `model_dir`/`manifest["model_name"]`/VERSION, and returns VERSION.

    The version is written beside the others under a name that no server takes for one, to the disk, together with
    manifest and warm-up requests. It is loaded with the loader that TensorFlow Serving uses, has to answer each warm-up
    request with finite numbers, and then is renamed: a server sees all of it or nothing, whenever this process is
    killed. Version numbers only grow, also when versions are deleted.

    Args:
        exported: Folder of the SavedModel; it is copied and stays.
        model_dir: Folder of all models; it is made if it doesn't exist.
        manifest: The fields of `VersionManifest`.
        warmup: 1 to 1000 requests, PredictRequest messages or their bytes (see `serving.tensors.predict_request`). The
            server answers them before it lets a version have real requests; their model name is set here.

    Raises:
        ValueError: An argument is wrong.
        PublishError: Another process is publishing this model, the export can't be served, or it can't be written (the
            disk is full, for example). Nothing is visible then.
    """
    checked = VersionManifest.from_dict(manifest)
    exported, base = Path(exported), Path(model_dir) / checked.model_name
    if not (exported / "saved_model.pb").is_file():
        raise ValueError(f"{exported} is not an exported model: it has no file saved_model.pb")
    records = _warm_up_records(checked.model_name, warmup)
    try:
        base.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(base / _LOCK_FILE, timeout=0):
            return _publish_locked(exported, base, checked, records)
    except filelock.Timeout as error:
        raise PublishError(
            f"another process is publishing to {base}; try again when it has ended (it holds {base / _LOCK_FILE})"
        ) from error
    except OSError as error:
        raise PublishError(f"{base}: the new version can't be written, nothing was published: {error}") from error


def published_versions(model_dir: Path, model_name: str) -> list[int]:
    """The versions in `model_dir`/`model_name`, ascending."""
    base = Path(model_dir) / model_name
    return sorted(_version_numbers(base)) if base.is_dir() else []


def _publish_locked(exported: Path, base: Path, manifest: VersionManifest, records: list[bytes]) -> int:
    for leftover in base.glob(_STAGING_PREFIX + "*"):
        shutil.rmtree(leftover)  # of a process that was killed: no other one can be writing now
    last_file = base / _LAST_VERSION_FILE
    version = max([_last_version(last_file), *_version_numbers(base)]) + 1
    if version > _LARGEST_VERSION:
        raise PublishError(
            f"{base} has a version {version - 1}, and no larger number can be served; rename that folder"
        )
    staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=base))
    try:
        candidate = staging / str(version)
        copy_durably(exported, candidate)
        write_durably(candidate / MANIFEST_FILE, manifest.to_json(version).encode())
        _write_warm_up(candidate / _WARM_UP_FILE, records)
        for folder in (candidate / _WARM_UP_FILE).parent, candidate:
            sync_folder(folder)
        _check(candidate, records)
        # Before the version appears: a crash in between costs a number, the other order could give one out twice.
        replace_durably(last_file, str(version).encode())
        candidate.rename(base / str(version))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    try:
        sync_folder(base)
    except OSError as error:  # the version is there and whole, servers may be loading it: too late to fail
        _log.warning("version %d of %s is published, but may not survive a power failure: %s", version, base, error)
    return version


def _version_numbers(base: Path) -> list[int]:
    return [int(child.name) for child in base.iterdir() if re.fullmatch(r"\d+", child.name, re.ASCII)]


def _last_version(path: Path) -> int:
    if not path.exists():
        return 0
    text = path.read_text()
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise PublishError(
            f"{path} must hold the number of the last version, it holds {text[:100]!r}; delete or mend it"
        )
    return int(text)


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
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _check(candidate: Path, records: list[bytes]) -> None:
    """Loads the version as TensorFlow Serving does and asks it the warm-up requests."""
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from serving.local_server.servable import Servable
    from serving.local_server.serving_error import ServingError
    from serving.local_server.tensor_codec import decode_tensor

    try:
        servable = Servable(candidate)
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
        raise PublishError(f"the export can't be loaded the way TensorFlow Serving loads it: {error}") from error
    index = 0
    try:
        servable.signature("")  # clients call the default one when they name none
        for index, record in enumerate(records):
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = {name: decode_tensor(name, proto) for name, proto in request.inputs.items()}
            outputs = servable.predict(request.model_spec.signature_name, inputs, request.output_filter)
            for name, array in outputs.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise PublishError(f"output {name!r} of the export is not finite for warm-up request {index}")
    except ServingError as error:
        raise PublishError(f"the export can't answer warm-up request {index}: {error.message}") from error
    finally:
        servable.close()
