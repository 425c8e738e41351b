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


def test_the_oldest_versions_are_removed(export_model, tmp_path, manifest, warmup):
    base = tmp_path / "ranker"
    for _ in range(4):
        publish(export_model(0.0), tmp_path, manifest, warmup, keep=2)
    assert visible(tmp_path) == ["3", "4"]
    (base / "1").mkdir()  # no manifest: someone else's, neither counted nor removed
    (base / "2").symlink_to(base / "3")
    shutil.copytree(base / "3", base / "003")
    assert publish(export_model(0.0), tmp_path, manifest, warmup, keep=2, protected=[3]) == 5
    assert visible(tmp_path) == ["003", "1", "2", "3", "4", "5"]
    assert publish(export_model(0.0), tmp_path, manifest, warmup, keep=2) == 6
    assert visible(tmp_path) == ["003", "1", "2", "5", "6"]
    assert not list(base.glob(".publish-*"))


def test_a_version_newer_than_the_new_one_stays(export_model, tmp_path, manifest, warmup, monkeypatch):
    """Another writer, where locks don't work, was faster in between."""
    from serving import version_folders

    base, real = tmp_path / "ranker", version_folders.VersionFolders._mark
    for _ in range(2):
        publish(export_model(0.0), tmp_path, manifest, warmup)

    def mark_late(self, version):
        for newer in (version + 1, version + 2, version + 3):
            shutil.copytree(base / "1", base / str(newer))
        real(self, version)

    monkeypatch.setattr(version_folders.VersionFolders, "_mark", mark_late)
    assert publish(export_model(0.0), tmp_path, manifest, warmup, keep=2) == 3
    assert visible(tmp_path) == ["2", "3", "4", "5", "6"]


def test_a_version_is_renamed_before_it_is_deleted(export_model, tmp_path, manifest, warmup, monkeypatch):
    whole = {"1": 0, "2": 0}
    real = os.unlink

    def watched(path, *args, **kwargs):
        for version in visible(tmp_path):
            files = [file for file in (tmp_path / "ranker" / version).rglob("*") if file.is_file()]
            whole[version] = max(whole.get(version, 0), len(files))
            assert len(files) == whole[version]
        real(path, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", watched)
    for _ in range(4):
        publish(export_model(0.0), tmp_path, manifest, warmup, keep=2)
    assert visible(tmp_path) == ["3", "4"]
    assert whole["1"] == whole["2"] > 4


def test_the_new_version_stands_when_old_ones_can_not_be_removed(export_model, tmp_path, manifest, warmup, caplog):
    from serving import version_folders

    for _ in range(2):
        publish(export_model(0.0), tmp_path, manifest, warmup, keep=2)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(self, folder):
            raise OSError(errno.EROFS, "Read-only file system")

        patch.setattr(version_folders.VersionFolders, "_remove", refuse)
        assert publish(export_model(0.0), tmp_path, manifest, warmup, keep=2) == 3
    assert "old versions of" in caplog.text and "Read-only file system" in caplog.text
    assert visible(tmp_path) == ["1", "2", "3"]


@pytest.mark.parametrize("keep", [0, 1, -3, 2.5, True])
def test_fewer_than_two_versions_can_not_be_kept(export_model, tmp_path, manifest, warmup, keep):
    with pytest.raises(ValueError, match="keep must be at least 2, the new version and the one that is served"):
        publish(export_model(0.0), tmp_path, manifest, warmup, keep=keep)


def test_a_file_system_without_locks_is_an_error(export_model, tmp_path, manifest, warmup, monkeypatch):
    def unsupported(lock, timeout):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    with pytest.raises(PublishError, match=r"\.publish\.lock: this file system has no locks"):
        publish(export_model(0.0), tmp_path, manifest, warmup)
    assert visible(tmp_path) == []
