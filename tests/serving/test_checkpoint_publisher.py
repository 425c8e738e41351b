import errno
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from serving.checkpoint_publisher import CheckpointPublisher
from serving.publish_error import PublishError
from serving.publisher import publish, published_versions
from serving.variables_bundle import read_weights
from serving.version_manifest import VersionManifest

from .scorer_model import export_scorer, scorer_inputs, scorer_weights, scores, warm_up

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """With the extra files that a pipeline's trainer leaves beside a model."""
    folder = export_scorer(tmp_path_factory.mktemp("scorer") / "model", scorer_weights(0))
    (folder / "assets.extra").mkdir()
    for name in ("model.weights.h5", "training.json", "ranker.json"):
        (folder / "assets.extra" / name).write_text(f"{name} of seed 0")
    return folder


@pytest.fixture
def base(exported, tmp_path, manifest) -> Path:
    """Folder of the model with version 1."""
    assert publish(exported, tmp_path, manifest, warm_up()) == 1
    return tmp_path / "ranker"


def visible(base: Path) -> list[int]:
    return sorted(int(child.name) for child in base.iterdir() if child.name.isdigit())


def loaded_by_v1(version: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As TensorFlow Serving loads it."""
    from serving.local_server.servable import Servable

    servable = Servable(version)
    try:
        assert servable.warm_up() == 1
        return servable.predict("", inputs)
    finally:
        servable.close()


def loaded_by_v2(version: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import tensorflow as tf

    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def test_both_loaders_answer_with_the_pushed_weights(base, tmp_path, manifest):
    inputs, weights = scorer_inputs(), scorer_weights(5)
    with CheckpointPublisher(tmp_path, "ranker") as publisher:
        assert publisher.version == 1
        assert publisher.push(weights, manifest) == publisher.version == 2
    # A full export of the same weights answers with the very same numbers.
    full = export_scorer(tmp_path / "full", weights)
    assert publish(full, tmp_path, {**manifest, "model_name": "other"}, warm_up()) == 1
    for load in loaded_by_v1, loaded_by_v2:
        answered = load(base / "2", inputs)
        np.testing.assert_equal(answered, load(tmp_path / "other/1", inputs))
        for name, expected in scores(weights, inputs).items():
            np.testing.assert_allclose(answered[name], expected, atol=0 if name in ("bias", "seen") else 1e-6)
        assert not np.allclose(answered["ctr"], load(base / "1", inputs)["ctr"])
    assert read_weights(base / "2")[3].dtype == np.int64
    np.testing.assert_equal(read_weights(base / "2"), weights)
    np.testing.assert_equal(read_weights(base / "1"), scorer_weights(0))


def test_what_does_not_depend_on_the_weights_is_linked(base, tmp_path, manifest):
    (base / "1/assets").mkdir(exist_ok=True)
    (base / "1/assets/vocabulary.txt").write_text("a\nb\n")
    CheckpointPublisher(tmp_path, "ranker").push(scorer_weights(1), manifest)
    files = {str(path.relative_to(base / "2")) for path in (base / "2").rglob("*") if path.is_file()}
    linked = {
        *("saved_model.pb", "fingerprint.pb", "assets/vocabulary.txt"),
        *("assets.extra/tf_serving_warmup_requests", "assets.extra/ranker.json"),
    }
    # The Keras weights and the training's report are those of version 1, so they don't come along.
    assert files == linked | {"version.json", "variables/variables.index", "variables/variables.data-00000-of-00001"}
    for name in linked:
        assert (base / "2" / name).samefile(base / "1" / name)


def test_where_there_are_no_links_files_are_copied(base, tmp_path, manifest, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    CheckpointPublisher(tmp_path, "ranker").push(scorer_weights(1), manifest)
    assert not (base / "2/saved_model.pb").samefile(base / "1/saved_model.pb")
    assert (base / "2/saved_model.pb").read_bytes() == (base / "1/saved_model.pb").read_bytes()
    assert loaded_by_v1(base / "2", scorer_inputs())["bias"][0] == 1


def test_the_manifest_names_the_version_that_it_goes_on_from(base, tmp_path, manifest):
    with CheckpointPublisher(tmp_path, "ranker") as publisher:
        del manifest["parent_version"]
        publisher.push(scorer_weights(1), manifest)
        publisher.push(scorer_weights(2), {**manifest, "span": 9})
        publisher.push(scorer_weights(3), {**manifest, "parent_version": 2})  # rolled back to 2
    read = {version: VersionManifest.read(base / str(version)) for version in (1, 2, 3, 4)}
    assert [read[version].parent_version for version in (1, 2, 3, 4)] == [None, 1, 2, 2]
    assert [read[version].span for version in (1, 2, 3, 4)] == [4, 4, 9, 4]


def test_a_manifest_of_another_model_or_that_is_not_blessed_is_refused(base, tmp_path, manifest):
    publisher = CheckpointPublisher(tmp_path, "ranker")
    with pytest.raises(ValueError, match="one of model 'other'"):
        publisher.push(scorer_weights(1), {**manifest, "model_name": "other"})
    with pytest.raises(ValueError, match="only a model that the gate has blessed"):
        publisher.push(scorer_weights(1), {**manifest, "decision": "rejected"})
    with publisher, pytest.raises(ValueError, match=r"missing: \['span'\]"):
        publisher.push(scorer_weights(1), {name: value for name, value in manifest.items() if name != "span"})
    with pytest.raises(ValueError, match="was closed"):
        publisher.push(scorer_weights(1), manifest)
    assert visible(base) == [1]


def test_large_arrays_are_handed_over_whether_they_are_aligned_or_not():
    """Without a copy if they are; the tensor keeps the array alive."""
    from serving.variables_bundle import _LARGE, _tensor

    memory = np.arange(_LARGE // 4 + 64, dtype=np.float32)
    first = (-memory.ctypes.data % 64) // 4
    for begin, shared in ((first, True), (first + 1, False)):
        array = memory[begin : begin + _LARGE // 4].reshape(2, -1)
        tensor = _tensor(array)
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert (tensor._numpy().ctypes.data == array.ctypes.data) == shared
    frozen = np.ones(_LARGE, np.float32)
    frozen.flags.writeable = False
    np.testing.assert_array_equal(_tensor(frozen).numpy(), frozen)


def changed(index: int, weight: np.ndarray) -> list[np.ndarray]:
    return [weight if place == index else array for place, array in enumerate(scorer_weights(1))]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (scorer_weights(1)[:3], "has 4 weights, got 3"),
        (changed(1, np.zeros(4, np.float32)), r"weight 1, kernel, must be .* float32 \(3,\), got float32 \(4,\)"),
        (changed(2, np.zeros(1, np.float32)), r"weight 2, bias, must be .* float32 \(\), got float32 \(1,\)"),
        (changed(1, np.zeros(3)), r"weight 1, kernel, .* got float64 \(3,\)"),
        (changed(1, [0.0, 0.0, 0.0]), "weight 1, kernel, .* got list"),
        (changed(0, np.full((8, 2), np.nan, np.float32)), "weight 0, table, is not finite"),
        (changed(2, np.array(-np.inf, np.float32)), "weight 2, bias, is not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(base, tmp_path, manifest, weights, message):
    with pytest.raises(PublishError, match=message):
        CheckpointPublisher(tmp_path, "ranker").push(weights, manifest)
    assert visible(base) == [1]


def test_one_number_that_is_not_finite_is_found_wherever_it_is(base):
    from serving.variables_bundle import _CHUNK, _is_finite

    large = np.zeros((2 * _CHUNK + 3, 1), np.float32)
    assert _is_finite(large)
    for place in (0, _CHUNK - 1, _CHUNK, 2 * _CHUNK, 2 * _CHUNK + 2):
        large[place] = np.inf
        assert not _is_finite(large)
        large[place] = 0


def test_views_and_transposed_arrays_are_written_as_they_read(base, tmp_path, manifest):
    weights = scorer_weights(3)
    weights[0] = np.asfortranarray(weights[0])
    weights[1] = weights[1][::-1]
    weights[2] = weights[2][()]  # numpy's scalar, as it comes from a tensor without dimensions
    CheckpointPublisher(tmp_path, "ranker").push(weights, manifest)
    np.testing.assert_equal(read_weights(base / "2"), weights)


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.sampled_from(["push", "delete newest", "delete oldest", "bad push", "restart"]), min_size=1, max_size=8)
)
def test_whatever_happens_numbers_grow_and_each_version_reads_back(exported, tmp_path_factory, manifest, actions):
    """Every version that is visible holds the weights that were pushed under its number."""
    model_dir = tmp_path_factory.mktemp("actions")
    base, pushed, newest = model_dir / "ranker", {1: scorer_weights(0)}, 1
    publish(exported, model_dir, manifest, warm_up(), keep=3)
    publisher = CheckpointPublisher(model_dir, "ranker", keep=3)
    for number, action in enumerate(actions, start=1):
        if action == "push":
            version = publisher.push(scorer_weights(number), manifest)
            assert version > newest
            newest, pushed[version] = version, scorer_weights(number)
            assert len(visible(base)) <= 3 and visible(base)[-1] == version
        elif action == "delete newest" and len(visible(base)) > 1:
            shutil.rmtree(base / str(visible(base)[-1]))
            publisher = CheckpointPublisher(model_dir, "ranker", keep=3)
        elif action == "delete oldest" and len(visible(base)) > 1:
            shutil.rmtree(base / str(visible(base)[0]))
        elif action == "bad push":
            with pytest.raises(PublishError, match="is not finite"):
                publisher.push([np.full_like(w, np.nan) if w.dtype.kind == "f" else w for w in pushed[1]], manifest)
        elif action == "restart":
            publisher = CheckpointPublisher(model_dir, "ranker", keep=3)
        for version in visible(base):
            np.testing.assert_equal(read_weights(base / str(version)), pushed[version])


def test_the_oldest_versions_go(base, tmp_path, manifest):
    (base / "0").mkdir()  # someone else's
    with CheckpointPublisher(tmp_path, "ranker", keep=2) as publisher:
        for seed in range(1, 5):
            publisher.push(scorer_weights(seed), manifest, protected=[2])
    assert visible(base) == [0, 2, 4, 5]  # 2 and 0 aside, the newest two
    assert CheckpointPublisher(tmp_path, "ranker").push(scorer_weights(9), manifest) == 6


def test_a_version_can_be_gone_on_from_after_it_was_removed_itself(base, tmp_path, manifest):
    """Each push goes on from the last one, whose files are the same: the base needn't stay."""
    with CheckpointPublisher(tmp_path, "ranker", keep=2) as publisher:
        publisher.push(scorer_weights(1), manifest)
        shutil.rmtree(base / "1")
        publisher.push(scorer_weights(2), manifest)
    assert loaded_by_v1(base / "3", scorer_inputs())["bias"][0] == 2


def test_an_older_version_can_be_gone_on_from(base, tmp_path, manifest):
    CheckpointPublisher(tmp_path, "ranker").push(scorer_weights(1), manifest)
    with CheckpointPublisher(tmp_path, "ranker", base_version=1) as publisher:
        assert publisher.push(scorer_weights(7), manifest) == 3
    assert VersionManifest.read(base / "3").parent_version == 1


def test_nothing_is_pushed_over_a_version_that_someone_else_has_published(base, exported, tmp_path, manifest):
    publisher = CheckpointPublisher(tmp_path, "ranker")
    publisher.push(scorer_weights(1), manifest)
    assert publisher.newer_version() is None
    publish(exported, tmp_path, manifest, warm_up())
    assert publisher.newer_version() == 3
    with pytest.raises(PublishError, match=r"version 3 of .* was published by another writer since version 2"):
        publisher.push(scorer_weights(2), manifest)
    assert CheckpointPublisher(tmp_path, "ranker").push(scorer_weights(2), manifest) > 3


_WRITER = """
import sys
import time
from pathlib import Path
from serving.version_folders import VersionFolders

def fill(candidate, version):
    candidate.mkdir()
    (candidate / "version.json").write_text("{}")
    (candidate / "saved_model.pb").write_text("")
    print("writing", flush=True)
    sys.stdin.readline()
    raise ValueError("never mind")

VersionFolders(Path(sys.argv[1])).add(fill)
"""


def test_a_second_process_that_writes_is_refused_and_so_are_we(base, exported, tmp_path, manifest):
    publisher = CheckpointPublisher(tmp_path, "ranker")
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(base)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(PublishError, match="another process is publishing"):
            publisher.push(scorer_weights(1), manifest)
        with pytest.raises(PublishError, match="another process is publishing"):
            publish(exported, tmp_path, manifest, warm_up())
        second = subprocess.run(
            [sys.executable, "-c", _WRITER, str(base)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert "PublishError: another process is publishing" in second.stderr
        assert second.stdout == ""
        other.communicate("\n", timeout=30)
    assert visible(base) == [1]
    assert publisher.push(scorer_weights(1), manifest) == 2
    assert not list(base.glob(".publish-*"))


def test_a_full_disk_leaves_nothing_and_the_next_push_works(base, tmp_path, manifest, monkeypatch):
    """Each fsync fails in turn, which is where a full disk shows at the latest."""
    publisher, real = CheckpointPublisher(tmp_path, "ranker"), os.fsync
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
                publisher.push(scorer_weights(1), manifest)
                break  # only the very last one, after the version has become visible, may fail without harm
            except PublishError as error:
                assert re.search(r"nothing was published: .*No space left on device", str(error))
        assert visible(base) == [1] and publisher.version == 1
        assert not list(base.glob(".publish-*"))
    assert fail_at > 6
    assert publisher.push(scorer_weights(1), manifest) > 2


def test_what_the_disk_refuses_while_weights_are_written_is_not_lost(base, tmp_path, manifest, monkeypatch):
    """The system reports a failed write-back once: whoever is told has to pass it on."""
    from serving import variables_bundle

    def refuse(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    real = variables_bundle.VariablesBundle._save

    def save_slowly(self, prefix, weights):
        real(self, prefix, weights)
        time.sleep(0.2)

    monkeypatch.setattr(os, "fdatasync", refuse)
    monkeypatch.setattr(variables_bundle.VariablesBundle, "_save", save_slowly)
    with pytest.raises(PublishError, match=r"nothing was published: .*Input/output error"):
        CheckpointPublisher(tmp_path, "ranker").push(scorer_weights(1), manifest)
    assert visible(base) == [1]


@pytest.mark.parametrize("rename", [True, False])
def test_a_really_full_disk(exported, tmp_path, manifest, rename):
    """On a small file system, which only root can make; filled up after the first version."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root; run the tests as root in a container to include this one")
    try:
        publish(exported, small, manifest, warm_up())
        publisher = CheckpointPublisher(small, "ranker", rename=rename)
        for left in (0, 4096, 8192):
            free = shutil.disk_usage(small).free
            (small / "filler").write_bytes(b"x" * (free - left))
            with pytest.raises(PublishError, match=r"nothing was published: .*(No space left|space)"):
                publisher.push(scorer_weights(1), manifest)
            assert visible(small / "ranker") == [1]
            assert not list((small / "ranker").glob(".publish-*"))
            (small / "filler").unlink()
        version = publisher.push(scorer_weights(1), manifest)
        assert loaded_by_v1(small / "ranker" / str(version), scorer_inputs())["bias"][0] == 1
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_there_must_be_a_version_to_go_on_from(base, tmp_path):
    with pytest.raises(PublishError, match="has no version to go on from; publish one with"):
        CheckpointPublisher(tmp_path, "nothing")
    with pytest.raises(PublishError, match=r"ranker/7 is not the folder of a version; those in .* are \[1\]"):
        CheckpointPublisher(tmp_path, "ranker", base_version=7)
    with pytest.raises(ValueError, match="keep must be at least 2"):
        CheckpointPublisher(tmp_path, "ranker", keep=1)


def unlink(name: str):
    return lambda version: (version / name).unlink()


def overwrite(name: str, content: bytes):
    return lambda version: (version / name).write_bytes(content)


def turn_into_link(name: str):
    def turn(version: Path) -> None:
        aside = version.parent / "aside"
        (version / name).rename(aside)
        (version / name).symlink_to(aside)

    return turn


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unlink("saved_model.pb"), r"saved_model\.pb is missing"),
        (unlink("version.json"), r"version\.json is missing"),
        (unlink("variables/variables.index"), r"variables\.index is missing"),
        (unlink("variables/variables.data-00000-of-00001"), "variables can't be read"),
        (overwrite("variables/variables.index", b"\0" * 100), "holds no variables that can be read"),
        (overwrite("variables/variables.data-00000-of-00001", b""), "variables can't be read"),
        (overwrite("version.json", b"[]"), "not the manifest of a published version"),
        (overwrite("version.json", b'{"version": 1, "signed": "someone else"}'), "not the manifest of a published"),
        (turn_into_link("saved_model.pb"), r"saved_model\.pb is a symbolic link"),
        (turn_into_link("version.json"), r"version\.json is a symbolic link"),
        (turn_into_link("variables/variables.index"), r"variables\.index is a symbolic link"),
        (turn_into_link("assets.extra/ranker.json"), r"ranker\.json is a symbolic link"),
        (turn_into_link("assets.extra"), r"assets\.extra is a symbolic link"),
    ],
)
def test_a_damaged_version_can_not_be_gone_on_from(base, tmp_path, manifest, damage, message):
    damage(base / "1")
    with pytest.raises(PublishError, match=message) as caught:
        CheckpointPublisher(tmp_path, "ranker", base_version=1).push(scorer_weights(1), manifest)
    assert "publish a whole version with serving.publisher.publish" in str(caught.value)
    assert visible(base) == [1]


def test_a_version_folder_that_is_a_link_or_a_copy_can_not_be_gone_on_from(base, tmp_path):
    (base / "2").symlink_to(base / "1")
    with pytest.raises(PublishError, match="is not the folder of a version"):
        CheckpointPublisher(tmp_path, "ranker")
    shutil.copytree(base / "1", base / "3")
    with pytest.raises(PublishError, match=r"3/version\.json is the manifest of version 1"):
        CheckpointPublisher(tmp_path, "ranker")
    shutil.copytree(base, tmp_path / "other", ignore=shutil.ignore_patterns("2", "3"))
    with pytest.raises(PublishError, match="its manifest is one of the model 'ranker'"):
        CheckpointPublisher(tmp_path, "other")


@pytest.mark.parametrize("names", [("variables",), ("weights", "others"), ("others", "weights"), ()])
def test_an_export_with_other_variables_can_not_be_gone_on_from(tmp_path, manifest, names):
    """Under other keys a pushed version would keep old numbers, which its graph may be the one to read."""
    folder = export_scorer(tmp_path / "model", scorer_weights(0), names)
    publish(folder, tmp_path, manifest, warm_up())
    with pytest.raises(PublishError, match=r"its variables must be weights/0/\.ATTRIBUTES/VARIABLE_VALUE and so on"):
        CheckpointPublisher(tmp_path, "ranker")


def test_damage_after_the_publisher_was_made_shows_in_the_push(base, tmp_path, manifest):
    publisher = CheckpointPublisher(tmp_path, "ranker")
    (base / "1/saved_model.pb").unlink()
    with pytest.raises(PublishError, match=r"saved_model\.pb is missing"):
        publisher.push(scorer_weights(1), manifest)
    assert not list(base.glob(".publish-*"))
    assert published_versions(tmp_path, "ranker") == []  # nothing that could be served, so it was cleaned away


def test_reading_weights_says_what_is_wrong(base, tmp_path):
    (base / "1/variables/variables.data-00000-of-00001").write_bytes(b"short")
    for folder in (base / "1", tmp_path / "nothing"):
        with pytest.raises(ValueError, match=f"the weights of {folder} can't be read"):
            read_weights(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
@pytest.mark.parametrize("variant", ["base", "all"])
def test_a_pushed_ranker_answers_as_the_keras_model_does(tmp_path, manifest, variant):
    """Trained on after the export, its weights taken as a delta, it answers in both loaders as itself."""
    import keras

    from keras_models.export import export_ranker
    from keras_models.ranker import LiveRanker
    from keras_models.weight_snapshot import WeightSnapshot, touched_rows
    from serving.tensors import predict_request
    from tests.keras_models.ranker_data import TASKS, inputs_for, small_config

    keras.utils.set_random_seed(0)
    ranker = LiveRanker(small_config(variant=variant))
    ranker.compile_defaults(1e-2)
    ranker.run_eagerly = True
    export_ranker(ranker, tmp_path / "export")
    inputs = inputs_for(ranker.config, 9)
    snapshot = WeightSnapshot(ranker)
    snapshot.update()
    request = predict_request("ranker", inputs).SerializeToString()
    publish(tmp_path / "export", tmp_path, manifest, [request])
    labels = {task: np.random.default_rng(0).integers(0, 2, (9, 1)).astype(np.float32) for task in TASKS}
    with CheckpointPublisher(tmp_path, "ranker") as publisher:
        for _ in range(3):
            ranker.train_on_batch(inputs, labels)
            version = publisher.push(snapshot.update(touched_rows(ranker, inputs, smallest=0)), manifest)
    folder = tmp_path / "ranker" / str(version)
    np.testing.assert_equal(read_weights(folder), ranker.get_weights())
    export_ranker(ranker, tmp_path / "again")
    publish(tmp_path / "again", tmp_path, {**manifest, "model_name": "full"}, [request])
    expected = {task: keras.ops.convert_to_numpy(score)[:, 0] for task, score in ranker(inputs).items()}
    for load in loaded_by_v1, loaded_by_v2:
        answered = load(folder, inputs)
        np.testing.assert_equal(answered, load(tmp_path / "full/1", inputs))  # bit by bit what a full export answers
        for task in TASKS:
            np.testing.assert_allclose(answered[task], expected[task], atol=1e-6)
    started = LiveRanker(ranker.config)  # as a loop does that starts from a published version
    started.set_weights(read_weights(folder))
    for task, score in started(inputs).items():
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(score)[:, 0], expected[task])
