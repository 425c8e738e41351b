import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms.codebook import Codebook
from beam_transforms.codebook_drift import drift

FOUR = Codebook(np.array([[0, 0], [10, 0], [0, 10], [10, 10]]), 6, 0.5, np.array([3, 0, 1, 0]))


def test_vectors_have_the_nearest_code():
    assigned = FOUR.assign(np.array([[1, 2], [9, 3], [4, 9], [7, 6], [-50, 40]], dtype=np.float64))
    assert assigned.dtype == np.int64
    assert assigned.tolist() == [0, 1, 2, 3, 2]
    assert FOUR.assign(np.zeros((0, 2))).tolist() == []


def test_ties_go_to_the_lowest_number():
    assert FOUR.assign(np.array([[5, 5], [5, 0], [10, 5], [5, 10]])).tolist() == [0, 0, 1, 2]
    same = Codebook(np.ones((5000, 3), dtype=np.float32))
    assert same.assign(np.array([[1, 1, 1], [1e6, -7, 3]])).tolist() == [0, 0]


def test_what_is_not_finite_has_no_code():
    assigned = FOUR.assign(np.array([[np.nan, 0], [9, 3], [0, np.inf], [0, -np.inf], [1, 1]]))
    assert assigned.tolist() == [-1, 1, -1, -1, 0]


def test_another_width_is_refused_with_both_named():
    with pytest.raises(ValueError, match=rf"shape \(rows, 2\) for codebook {FOUR.version} of 4 codes, got \(7, 3\)"):
        FOUR.assign(np.zeros((7, 3)))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros(3), r"shape \(K, W\).*got \(3,\)"),
        (np.zeros((0, 3)), r"got \(0, 3\)"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), "must be finite; 1 of 2 are not"),
    ],
)
def test_codes_that_are_none(codes, message):
    with pytest.raises(ValueError, match=message):
        Codebook(codes)
    with pytest.raises(ValueError, match="expected 4 counts >= 0"):
        Codebook(FOUR.codes, assignment_counts=np.zeros(3))


def _exact(codes, vectors):
    """Nearest codes by distances in more than float64."""
    differences = vectors[:, None].astype(np.longdouble) - codes[None].astype(np.longdouble)
    return np.square(differences).sum(axis=-1).argmin(axis=1)


@pytest.mark.parametrize("offset", [0.0, 100.0, 3e5])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e17])
def test_assignment_is_exact_wherever_codes_and_vectors_lie(offset, scale):
    generator = np.random.default_rng(3)
    codes = ((generator.standard_normal((1500, 8)) + offset) * scale).astype(np.float32)
    vectors = ((generator.standard_normal((300, 8)) + offset) * scale).astype(np.float32)
    vectors[:20] *= np.float32(1e4)
    np.testing.assert_array_equal(Codebook(codes).assign(vectors), _exact(codes, vectors))


def test_near_ties_are_decided_exactly():
    # Codes in pairs that differ by one unit in the last place: float32 scores can't tell them apart.
    generator = np.random.default_rng(4)
    codes = generator.standard_normal((1200, 16)).astype(np.float32)
    codes[1::2] = np.nextafter(codes[::2], np.float32(9))
    vectors = (codes[generator.permutation(1200)[:400]] + generator.standard_normal((400, 16)) * 0.1).astype(np.float32)
    np.testing.assert_array_equal(Codebook(codes).assign(vectors), _exact(codes, vectors))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 700), max_size=3), st.integers(0, 2**32))
def test_a_vector_has_the_same_code_whatever_its_batch(cuts, seed):
    generator = np.random.default_rng(seed)
    codebook = Codebook(generator.integers(-2, 3, (300, 6)))  # on a grid: ties abound
    vectors = generator.integers(-2, 3, (700, 6)).astype(np.float32) / 2
    together = codebook.assign(vectors)
    parts = np.split(vectors, sorted(cuts))
    np.testing.assert_array_equal(np.concatenate([codebook.assign(part) for part in parts]), together)
    np.testing.assert_array_equal([codebook.assign(vectors[i : i + 1])[0] for i in range(20)], together[:20])
    np.testing.assert_array_equal(together, _exact(codebook.codes, vectors))


def test_blocks_of_codes_and_of_vectors_have_no_seams():
    generator = np.random.default_rng(6)
    codebook = Codebook(generator.standard_normal((1203, 3)).astype(np.float32))  # blocks that aren't full
    vectors = generator.standard_normal((9000, 3)).astype(np.float32)
    vectors[::1000] = 1e30  # beyond what float32 scores can tell
    together = codebook.assign(vectors)
    parts = [codebook.assign(part) for part in np.array_split(vectors, 30)]
    np.testing.assert_array_equal(np.concatenate(parts), together)
    np.testing.assert_array_equal(_exact(codebook.codes, vectors[::20]), together[::20])


def test_one_code_is_always_the_nearest():
    assert Codebook(np.array([[3.0, 4.0]])).assign(np.array([[0, 0], [1e30, 3e38], [3, 4]])).tolist() == [0, 0, 0]


@pytest.mark.slow  # the layer brings its backend
def test_agrees_with_the_layer():
    layers = pytest.importorskip("keras_models.layers", reason="needs Keras; run `make setup` and this test again")
    generator = np.random.default_rng(5)
    codes = generator.standard_normal((50, 4)).astype(np.float32)
    codes[30] = codes[7]
    vectors = np.concatenate([generator.standard_normal((200, 4)), codes]).astype(np.float32)
    vectors[3, 2] = np.nan
    np.testing.assert_array_equal(Codebook(codes).assign(vectors), np.asarray(layers.NearestCode(codes)(vectors)))


def test_the_version_is_that_of_the_codes_alone():
    assert len(FOUR.version) == 12
    assert Codebook(FOUR.codes.astype(np.float64)).version == FOUR.version
    assert Codebook(FOUR.codes.reshape(2, 4)).version != FOUR.version
    assert Codebook(FOUR.codes[::-1]).version != FOUR.version


def test_figures_follow_from_the_counts():
    assert FOUR.codes_used == 2
    assert FOUR.perplexity == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert Codebook(FOUR.codes, assignment_counts=np.full(4, 9)).perplexity == pytest.approx(4)
    unknown = Codebook(FOUR.codes)
    assert (unknown.codes_used, unknown.perplexity) == (0, 0.0)
    assert unknown.assignment_counts.tolist() == [0, 0, 0, 0]


def test_a_saved_codebook_comes_back_the_same(tmp_path):
    path = FOUR.save(tmp_path / "codebooks")
    assert path == tmp_path / "codebooks" / f"codebook-{FOUR.version}"
    back = Codebook.load(path)
    np.testing.assert_array_equal(back.codes, FOUR.codes)
    np.testing.assert_array_equal(back.assignment_counts, [3, 0, 1, 0])
    assert (back.version, back.trained_on, back.mse) == (FOUR.version, 6, 0.5)
    about = json.loads((path / "codebook.json").read_text())
    assert (about["codes"], about["width"], about["codes_used"]) == (4, 2, 2)
    before = (path / "codebook.json").stat()
    assert FOUR.save(tmp_path / "codebooks") == path
    after = (path / "codebook.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # nothing half-written is left


def test_a_pickled_codebook_is_the_same():
    FOUR.assign(np.zeros((1, 2)))
    back = pickle.loads(pickle.dumps(FOUR))  # noqa: S301
    assert (back.version, back.trained_on) == (FOUR.version, 6)
    assert back.assign(np.array([[9, 3]])).tolist() == [1]


def test_what_is_no_codebook_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no codebook at .*nowhere: codes\.npy is missing"):
        Codebook.load(tmp_path / "nowhere")
    path = FOUR.save(tmp_path)
    whole = (path / "codes.npy").read_bytes()
    for damaged in (whole[:-5], b"", b"not an array"):
        (path / "codes.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            Codebook.load(path)
    changed = bytearray(whole)
    changed[-1] ^= 1
    (path / "codes.npy").write_bytes(changed)
    with pytest.raises(ValueError, match=rf"of version [0-9a-f]+, but codebook\.json names {FOUR.version}"):
        Codebook.load(path)
    (path / "codes.npy").write_bytes(whole)
    about = json.loads((path / "codebook.json").read_text())
    huge = [json.dumps(about | {"trained_on": np.inf}), json.dumps(about | {"assignment_counts": [2**70, 0, 0, 0]})]
    for text in ("{", "[]", "{}", "[" * 100_000, *huge):
        (path / "codebook.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            Codebook.load(path)
    (path / "codebook.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"codebook\.json is missing"):
        Codebook.load(path)


def test_codes_that_would_run_code_are_not_loaded(tmp_path):
    path = FOUR.save(tmp_path)
    np.save(path / "codes.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="is damaged"):
        Codebook.load(path)


def test_drift_of_hand_made_counts():
    same = drift(np.array([10, 30]), np.array([100, 300]))
    assert same.jensen_shannon_bits == pytest.approx(0, abs=1e-12)
    assert same.population_stability_index < 0.001
    assert same.noise == pytest.approx(1 / 40 + 1 / 400)
    apart = drift(np.array([10, 0]), np.array([0, 10]))
    assert apart.jensen_shannon_bits == pytest.approx(1)
    # Shares of 10.5 / 11 and 0.5 / 11 change places.
    assert apart.population_stability_index == pytest.approx(2 * (10 / 11) * np.log(21))
    back = drift(np.array([0, 10]), np.array([10, 0]))
    assert back == apart


def test_noise_is_what_chance_alone_gives():
    generator = np.random.default_rng(0)
    shares = np.full(50, 1 / 50)
    found = [drift(generator.multinomial(20_000, shares), generator.multinomial(10_000, shares)) for _ in range(60)]
    index = np.mean([one.population_stability_index for one in found])
    assert index == pytest.approx(found[0].noise, rel=0.1)
    bits = np.mean([one.jensen_shannon_bits for one in found])
    assert bits == pytest.approx(found[0].noise / (8 * np.log(2)), rel=0.1)


@pytest.mark.parametrize(
    ("previous", "counts", "message"),
    [
        ([1, 2], [1, 2, 3], r"of one codebook.*got \(2,\) and \(3,\)"),
        ([0, 0], [1, 2], "not all 0, got 0 and 3 segments"),
        ([1, 2], [-1, 2], ">= 0"),
    ],
)
def test_counts_that_cannot_be_compared(previous, counts, message):
    with pytest.raises(ValueError, match=message):
        drift(np.array(previous), np.array(counts))
