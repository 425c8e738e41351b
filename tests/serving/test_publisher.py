import errno
import json
import os
import re
import shutil
import subprocess
import threading

import filelock
import numpy as np
import pytest

from serving.protos import serving_api_pb2 as api
from serving.publish_error import PublishError
from serving.publisher import publish, published_versions
from serving.tensors import predict_request

INPUTS = {"user_id": np.array([3], np.int64), "context": np.zeros((1, 3), np.float32)}


def visible(model_dir):
    """What a model server sees: children whose name is a number."""
    return sorted(child.name for child in (model_dir / "ranker").iterdir() if re.fullmatch(r"\d+", child.name))


def test_a_published_version_is_the_export_with_manifest_and_warm_up(export_model, tmp_path, manifest, warmup):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    exported = export_model(0.0)
    assert publish(exported, tmp_path, manifest, warmup) == 1
    version = tmp_path / "ranker" / "1"
    for file in exported.rglob("*"):
        if file.is_file():
            assert (version / file.relative_to(exported)).read_bytes() == file.read_bytes()
    written = json.loads((version / "version.json").read_text())
    assert written.pop("version") == 1
    assert abs(written.pop("created_ms") - (version / "version.json").stat().st_mtime * 1000) < 10_000
    assert written == manifest
    records = tf.data.TFRecordDataset(str(version / "assets.extra/tf_serving_warmup_requests")).as_numpy_iterator()
    requests = [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]
    assert [request.model_spec.name for request in requests] == ["ranker", "ranker"]
    original = api.PredictRequest.FromString(warmup[1])
    assert requests[1].inputs["context"].tensor_content == original.inputs["context"].tensor_content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ranker"]
    assert not list((tmp_path / "ranker").glob(".publish-*"))


def test_messages_are_taken_as_well_as_bytes(export_model, tmp_path, manifest):
    assert publish(export_model(0.0), tmp_path, manifest, [predict_request("ranker", INPUTS)]) == 1


def test_version_numbers_only_grow(export_model, tmp_path, manifest, warmup):
    assert publish(export_model(0.0), tmp_path, manifest, warmup) == 1
    (tmp_path / "ranker" / "41").mkdir()  # put there by someone else
    assert publish(export_model(0.0), tmp_path, manifest, warmup) == 42
    shutil.rmtree(tmp_path / "ranker" / "42")
    assert publish(export_model(0.0), tmp_path, manifest, warmup) == 43
    assert published_versions(tmp_path, "ranker") == [1, 41, 43]


def test_models_have_versions_of_their_own(export_model, tmp_path, manifest, warmup):
    assert publish(export_model(0.0), tmp_path, manifest, warmup) == 1
    assert publish(export_model(0.0), tmp_path, {**manifest, "model_name": "other"}, warmup) == 1
    assert published_versions(tmp_path, "none") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "rejected"}, "only a model that the gate has blessed"),
        ({"span": "4"}, "span of a manifest must be int, got '4'"),
        ({"span": True}, "span of a manifest must be int, got True"),
        ({"model_name": "../ranker"}, "model_name must be the name of a folder"),
        ({"extra": 1}, r"unknown: \['extra'\]"),
        ({"tasks": {"ctr": float("nan")}}, "NaN metrics must be null"),
    ],
)
def test_a_wrong_manifest_publishes_nothing(export_model, tmp_path, manifest, warmup, change, message):
    with pytest.raises(ValueError, match=message):
        publish(export_model(0.0), tmp_path, {**manifest, **change}, warmup)
    assert published_versions(tmp_path, "ranker") == []


def test_a_missing_field_is_named(export_model, tmp_path, manifest, warmup):
    del manifest["span"]
    with pytest.raises(ValueError, match=r"missing: \['span'\]"):
        publish(export_model(0.0), tmp_path, manifest, warmup)


@pytest.mark.parametrize("requests", [[], [b"\xff"], [{"user_id": 1}], [b""] * 1001])
def test_wrong_warm_up_requests_are_refused(export_model, tmp_path, manifest, requests):
    with pytest.raises(ValueError, match="warmup"):
        publish(export_model(0.0), tmp_path, manifest, requests)


def test_a_folder_without_a_model_is_refused(tmp_path, manifest, warmup):
    with pytest.raises(ValueError, match=r"has no file saved_model\.pb"):
        publish(tmp_path, tmp_path, manifest, warmup)


def test_an_export_that_gives_nan_is_not_published(export_model, tmp_path, manifest, warmup):
    with pytest.raises(PublishError, match="not finite for warm-up request 0"):
        publish(export_model(float("nan")), tmp_path, manifest, warmup)
    assert visible(tmp_path) == []


def test_an_export_that_does_not_take_the_requests_is_not_published(export_model, tmp_path, manifest):
    request = predict_request("ranker", {"context": INPUTS["context"]})
    with pytest.raises(PublishError, match=r"can't answer warm-up request 0: .*Missing but required: {user_id}"):
        publish(export_model(0.0), tmp_path, manifest, [request])
    assert visible(tmp_path) == []


def test_an_export_without_its_variables_is_not_published(export_model, tmp_path, manifest, warmup):
    broken = tmp_path / "broken"
    shutil.copytree(export_model(0.0), broken)
    shutil.rmtree(broken / "variables")
    with pytest.raises(PublishError, match="can't be loaded the way TensorFlow Serving loads it"):
        publish(broken, tmp_path, manifest, warmup)
    assert visible(tmp_path) == []


def test_a_full_disk_leaves_nothing_and_the_next_publish_works(export_model, tmp_path, manifest, warmup, monkeypatch):
    """Each fsync fails in turn, which is where a full disk shows at the latest: copies, manifest, requests, mark."""
    assert publish(export_model(0.0), tmp_path, manifest, warmup) == 1
    real = os.fsync
    for fail_at in range(1, 100):
        calls = []

        def full(descriptor, calls=calls, fail_at=fail_at):
            calls.append(descriptor)
            if len(calls) == fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                publish(export_model(1.0), tmp_path, manifest, warmup)
                break  # only the very last one, after the version has become visible, may fail without harm
            except PublishError as error:
                assert re.search(r"nothing was published: .*No space left on device", str(error))
        assert visible(tmp_path) == ["1"]
        assert not list((tmp_path / "ranker").glob(".publish-*"))
    assert fail_at > 10
    assert len(visible(tmp_path)) == 2
    assert publish(export_model(1.0), tmp_path, manifest, warmup) > 2


def test_a_really_full_disk(export_model, tmp_path, manifest, warmup):
    """On a file system of 16 KB, which only root can make."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root; run the tests as root in a container to include this one")
    try:
        with pytest.raises(PublishError, match="No space left on device"):
            publish(export_model(0.0), small, manifest, warmup)
        assert visible(small) == []
        assert not list((small / "ranker").glob(".publish-*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_second_writer_is_refused(export_model, tmp_path, manifest, warmup):
    (tmp_path / "ranker").mkdir()
    with filelock.FileLock(tmp_path / "ranker" / ".publish.lock"), pytest.raises(PublishError, match="another process"):
        publish(export_model(0.0), tmp_path, manifest, warmup)
    assert publish(export_model(0.0), tmp_path, manifest, warmup) == 1


def test_concurrent_writers_get_distinct_versions_or_an_error(export_model, tmp_path, manifest, warmup):
    exported = export_model(0.0)
    published, refused = [], []

    def write():
        try:
            published.append(publish(exported, tmp_path, manifest, warmup))
        except PublishError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(published) + len(refused) == 6
    assert len(published) >= 1
    assert all("another process" in text for text in refused)
    assert sorted(published) == published_versions(tmp_path, "ranker")


def test_a_damaged_mark_is_an_error_that_names_it(export_model, tmp_path, manifest, warmup):
    (tmp_path / "ranker").mkdir()
    (tmp_path / "ranker" / ".last_version").write_text("seven")
    with pytest.raises(
        PublishError, match=r"\.last_version must hold the number of the last version, it holds 'seven'"
    ):
        publish(export_model(0.0), tmp_path, manifest, warmup)
