"""Publishing where a folder can't be renamed: in an order in which nothing is seen too early."""

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from serving.checkpoint_publisher import CheckpointPublisher
from serving.publish_error import PublishError
from serving.publisher import publish, published_versions
from serving.variables_bundle import read_weights

from .scorer_model import export_scorer, scorer_weights, warm_up


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = export_scorer(tmp_path_factory.mktemp("scorer") / "model", scorer_weights(0))
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets/words.txt").write_text("a")
    return folder


@pytest.fixture
def staging(tmp_path, monkeypatch) -> Path:
    """The temporary folder of this machine."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """A folder of models in which nothing can be renamed."""
    folder = tmp_path / "store"
    folder.mkdir()
    for name in ("rename", "replace"):
        real = getattr(os, name)

        def refuse(source, target, *args, real=real, **kwargs):
            if folder in Path(target).parents or folder in Path(source).parents:
                raise OSError(errno.ENOSYS, "Function not implemented")
            real(source, target, *args, **kwargs)

        monkeypatch.setattr(os, name, refuse)
    return folder


def files_of(version: Path) -> set[str]:
    return {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()}


def test_publishes_and_pushes_and_removes_without_a_rename(exported, store, staging, manifest):
    with pytest.raises(PublishError, match="Function not implemented"):
        publish(exported, store, manifest, warm_up())
    assert publish(exported, store, manifest, warm_up(), keep=2, rename=False) == 1
    with CheckpointPublisher(store, "ranker", keep=2, rename=False) as publisher:
        for seed in (2, 3, 4):
            assert publisher.push(scorer_weights(seed), manifest) == seed
    assert published_versions(store, "ranker") == [3, 4]
    assert [read_weights(store / "ranker" / str(version))[3] for version in (3, 4)] == [3, 4]
    names = {path.name for path in (store / "ranker").iterdir()}
    assert names == {"3", "4", ".publish.lock", ".last_version-4"}
    assert list(staging.iterdir()) == []
    shutil.rmtree(store / "ranker/4")
    assert publish(exported, store, manifest, warm_up(), rename=False) == 5


@pytest.mark.parametrize("links", [True, False])
def test_the_graph_appears_last_and_goes_first(exported, store, staging, manifest, monkeypatch, links):
    """Looked at before each step that could change what is seen."""
    publish(exported, store, manifest, warm_up(), rename=False)
    whole = files_of(store / "ranker/1")
    seen: dict[str, list[set[str]]] = {}

    def look() -> None:
        for version in (store / "ranker").iterdir():
            if re.fullmatch(r"\d+", version.name):
                seen.setdefault(version.name, []).append(files_of(version))

    for name in ("fsync", "link", "unlink", "mkdir", "rmdir"):
        real = getattr(os, name)

        def watched(*args, real=real, name=name, **kwargs):
            look()
            if name == "link" and not links:
                raise OSError(errno.EPERM, "Operation not permitted")
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, watched)
    publish(exported, store, manifest, warm_up(), keep=2, rename=False)
    CheckpointPublisher(store, "ranker", keep=2, rename=False).push(scorer_weights(1), manifest)
    look()
    partial = 0
    for states in seen.values():
        for files in states:
            assert "saved_model.pb" not in files or files == whole
            assert not files or "version.json" in files
            partial += files != whole
    assert partial > 5
    assert published_versions(store, "ranker") == [2, 3]


@pytest.mark.parametrize("fail", ["copy", "last"])
def test_a_failure_leaves_nothing(exported, store, staging, manifest, monkeypatch, fail):
    from serving import version_folders

    publish(exported, store, manifest, warm_up(), rename=False)
    real = version_folders.copy_file_durably

    def full(source, target):
        if target.name == ("version.json" if fail == "copy" else ".publish-saved_model.pb"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    publisher = CheckpointPublisher(store, "ranker", rename=False)
    with monkeypatch.context() as patch:
        patch.setattr(version_folders, "copy_file_durably", full)
        with pytest.raises(PublishError, match=r"nothing was published: .*No space left"):
            publisher.push(scorer_weights(1), manifest)
    assert published_versions(store, "ranker") == [1]
    assert publisher.push(scorer_weights(1), manifest) == 3  # number 2 was given out


def test_what_a_kill_left_is_removed_and_its_number_never_comes_back(exported, store, staging, manifest, monkeypatch):
    from serving import version_folders

    base, real = store / "ranker", version_folders.copy_file_durably
    publish(exported, store, manifest, warm_up(), rename=False)
    (base / "9").mkdir()  # someone else's: it stays

    class Killed(BaseException):
        pass

    def copy_until(stop):
        def copy(source, target):
            if target.name == stop:
                raise Killed
            real(source, target)

        return copy

    for number, stop in enumerate(["version.json", "variables.index", "saved_model.pb"], start=10):
        with monkeypatch.context() as patch:
            # A kill runs no cleaning.
            patch.setattr(version_folders, "copy_file_durably", copy_until(stop))
            patch.setattr(version_folders.shutil, "rmtree", lambda *args, **kwargs: None)
            patch.setattr(Path, "unlink", lambda *args, **kwargs: None)
            patch.setattr(os, "link", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
            with pytest.raises(Killed):
                publish(exported, store, manifest, warm_up(), rename=False)
        assert published_versions(store, "ranker")[-1] == number
        assert not (base / str(number) / "saved_model.pb").exists()
        assert CheckpointPublisher(store, "ranker", rename=False).version == 1  # not what was never finished
    assert publish(exported, store, manifest, warm_up(), rename=False) == 13
    assert published_versions(store, "ranker") == [1, 9, 13]
    assert list(staging.iterdir()) == []
    # A publisher that renames knows what was given out, and cleans up as well.
    shutil.rmtree(base / "13")
    (base / "14").mkdir()
    (base / "14/version.json").write_text("{")
    monkeypatch.undo()
    assert publish(exported, store, manifest, warm_up()) == 15
    assert published_versions(store, "ranker") == [1, 9, 15]
