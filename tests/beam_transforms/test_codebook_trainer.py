import faiss
import numpy as np
import pytest

from beam_transforms.codebook_trainer import CodebookTrainer, trainable

CENTRES = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 20]], dtype=np.float32)


def clusters(rows, seed=0):
    generator = np.random.default_rng(seed)
    of = generator.integers(0, 4, rows)
    return (CENTRES[of] + generator.standard_normal((rows, 3))).astype(np.float32)


def test_codes_are_the_centres_of_the_clusters():
    vectors = clusters(2000)
    # K-Means stays where it starts badly; this seed starts with a vector of each cluster or finds to it.
    codebook = CodebookTrainer(codes=4, iterations=10, seed=1).train([vectors[:700], vectors[700:]])
    for centre in CENTRES:
        assert np.abs(codebook.codes - centre).max(axis=1).min() < 0.2
    assert codebook.trained_on == 2000
    assert codebook.mse == pytest.approx(1.0, rel=0.05)  # the clusters' variance in each entry
    assert codebook.codes_used == 4
    assert codebook.perplexity == pytest.approx(4, rel=0.01)
    np.testing.assert_array_equal(codebook.assignment_counts, np.bincount(codebook.assign(vectors)))


def test_mse_and_counts_of_codes_that_are_the_vectors():
    vectors = np.array([[0.0, 1.0], [5.0, 5.0], [9.0, 0.0]])
    codebook = CodebookTrainer(codes=3, iterations=1).train([vectors])
    assert (codebook.mse, codebook.trained_on, codebook.codes_used) == (0.0, 3, 3)


@pytest.mark.parametrize("most_vectors", [None, 300, 50])
def test_the_order_of_vectors_and_batches_changes_nothing(most_vectors):
    vectors = clusters(1000)
    shuffled = np.random.default_rng(1).permutation(vectors)
    trainer = CodebookTrainer(codes=20, iterations=5, most_vectors=most_vectors)
    versions = {
        trainer.train(batches).version
        for batches in (
            [vectors],
            np.array_split(vectors, 7),
            np.array_split(shuffled, 3),
            [shuffled[:1], shuffled[1:]],
        )
    }
    assert len(versions) == 1
    other = CodebookTrainer(codes=20, iterations=5, seed=9, most_vectors=most_vectors)
    assert other.train([vectors]).version not in versions


def test_a_sample_is_of_the_given_size_and_like_the_whole():
    vectors = clusters(20_000)
    codebook = CodebookTrainer(codes=4, seed=1, most_vectors=2000).train(np.array_split(vectors, 50))
    assert codebook.trained_on == 2000
    assert codebook.assignment_counts.sum() == 2000
    counts = np.bincount(codebook.assign(vectors), minlength=4) / 10
    np.testing.assert_allclose(codebook.assignment_counts, counts, atol=90)  # 4.6 standard deviations


def test_a_sample_never_holds_more_than_twice_its_size_and_a_batch(monkeypatch):
    held = []
    smallest = CodebookTrainer._smallest
    monkeypatch.setattr(
        CodebookTrainer,
        "_smallest",
        lambda self, kept, hashes: held.append(sum(map(len, kept))) or smallest(self, kept, hashes),
    )
    CodebookTrainer(codes=2, iterations=1, most_vectors=100).train(clusters(10, seed) for seed in range(500))
    assert len(held) > 40
    assert max(held) <= 210


def test_faiss_has_its_threads_back():
    before = faiss.omp_get_max_threads()
    CodebookTrainer(codes=2, iterations=1).train([clusters(10)])
    assert faiss.omp_get_max_threads() == before


def test_vectors_that_are_not_finite_are_left_out_and_said(caplog):
    vectors = clusters(50)
    broken = np.concatenate([vectors[:20], np.full((2, 3), np.nan, np.float32), vectors[20:]])
    broken[0, 1] = np.inf
    trainer = CodebookTrainer(codes=5, iterations=2)
    assert trainer.train([broken]).version == trainer.train([vectors[1:]]).version
    assert "left out 3 vectors" in caplog.text


def test_vectors_that_are_too_long_are_left_out_and_said(caplog):
    vectors = clusters(50)
    broken = np.concatenate([vectors, [[9e14, 9e14, 0], [0, 0, 2e15]]]).astype(np.float32)
    trainer = CodebookTrainer(codes=5, iterations=2)
    assert trainer.train([broken]).version == trainer.train([vectors]).version
    assert "left out 2 vectors with NaN, infinity or a length beyond 1e+15" in caplog.text
    assert trainable(np.array([[1e15, 0], [3e38, 3e38], [-np.inf, np.nan]], dtype=np.float32)).tolist() == [
        True,
        False,
        False,
    ]


def test_too_few_vectors_are_refused_with_what_to_do():
    trainer = CodebookTrainer(codes=100)
    with pytest.raises(ValueError, match=r"100 codes needs at least as many vectors, got 60: ask for fewer codes"):
        trainer.train([clusters(30), clusters(30, 1)])
    with pytest.raises(ValueError, match="got 0"):
        trainer.train([])


def test_another_width_is_named():
    with pytest.raises(ValueError, match=r"shape \(rows, 3\), got \(5, 4\)"):
        CodebookTrainer(codes=2).train([clusters(5), np.zeros((5, 4))])
    with pytest.raises(ValueError, match=r"shape \(rows, W >= 1\), got \(5, 0\)"):
        CodebookTrainer(codes=2).train([np.zeros((5, 0))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codes": 0}, "must be positive"),
        ({"iterations": 0}, "must be positive"),
        ({"seed": -1}, "seed >= 0"),
        ({"codes": 10, "most_vectors": 9}, "most_vectors must be at least codes = 10, got 9"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CodebookTrainer(**arguments)
