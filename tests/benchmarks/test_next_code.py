import gzip
from pathlib import Path

import numpy as np
import pytest

from benchmarks import next_code

LIVE_CHAT = Path(__file__).parents[2].parent / "shared" / "data" / "live_chat"
HEADER = "session_id,date,offset_s,user,mod,vip,sub,n_chars,emotes\n"


@pytest.fixture
def chat(tmp_path):
    """Ten sessions: eight of "A B A" on as many days, written backwards; then one of "A A A B", one of "B A C"."""
    rows = []
    for day in reversed(range(8)):
        rows += [
            f"{100 - day},2024-01-0{day + 1},{offset},1,0,0,0,1,{name}\n" for offset, name in ((3, "A"), (1, "A B"))
        ]
    rows += ["5,2024-02-01,1,1,0,0,0,1,A A A B\n", "4,2024-02-02,1,1,0,0,0,1,\n", "4,2024-02-02,2,1,0,0,0,1,B A C\n"]
    with gzip.open(tmp_path / "some_chat.csv.gz", "wt") as file:
        file.writelines([HEADER, *rows])
    return tmp_path


def test_streams_are_split_by_date_and_ordered_by_time(chat):
    train, validation, test = next_code.streams(chat)
    np.testing.assert_array_equal(train.code, [0, 1, 0] * 8)  # A is the most frequent, code 0
    np.testing.assert_array_equal(train.positions, [i for i in range(24) if i % 3])
    np.testing.assert_array_equal(validation.code, [0, 0, 0, 1])
    np.testing.assert_array_equal(test.code, [1, 0])  # C isn't among the emotes of training


def test_sequences_end_with_their_emote():
    stream = next_code.Stream(np.array([7, 7, 5, 7, 7, 7, 5, 5]), np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    np.testing.assert_array_equal(stream.positions, [1, 2, 3, 5, 6, 7])
    sequences = stream.sequences(stream.positions, entries=3)
    np.testing.assert_array_equal(
        sequences["semantic_ids"], [[-1, -1, 7], [-1, 7, 5], [7, 5, 7], [-1, -1, 7], [-1, 7, 5], [-1, 7, 5]]
    )
    np.testing.assert_array_equal(
        sequences["run_lengths"], [[0, 0, 2], [0, 2, 1], [2, 1, 1], [0, 0, 2], [0, 2, 1], [0, 2, 2]]
    )
    np.testing.assert_array_equal(stream.sequences(np.array([3]), entries=2)["semantic_ids"], [[5, 7]])


def test_the_chain_follows_transitions_then_frequency(chat):
    train, validation, _ = next_code.streams(chat)
    chain = next_code.MarkovChain(train)
    # A is always followed by B in training, B by A: of A A A B only the last is right at once.
    assert chain.hit_rates(validation, validation.positions) == {"hit@1": pytest.approx(1 / 3), "hit@10": 1.0}


def test_the_whole_bench_runs_on_a_small_file(chat):
    result = next_code.run(str(chat), examples=16)
    assert [goal["goal"] for goal in result["goals"]] == [1.0, 1.0]  # of B A, A after B
    assert set(result["hit_rates"]) == {"model", "markov_chain", "last", "most_frequent", "largest_weight"}
    assert result["positions"] == {"train": 16, "test": 1}


def test_rejects_a_folder_without_a_chat(tmp_path):
    with pytest.raises(ValueError, match=r"expected one \*_chat.csv.gz"):
        next_code.streams(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_beats_the_markov_chain_on_real_chat():
    if not LIVE_CHAT.exists():
        pytest.skip(f"{LIVE_CHAT} is missing; put the folder `shared` beside the repository to run this")
    train, _, test = next_code.streams(LIVE_CHAT)
    markov = next_code.MarkovChain(train)
    whole = markov.hit_rates(test, test.positions)
    assert whole == {"hit@1": pytest.approx(0.374, abs=2e-3), "hit@10": pytest.approx(0.568, abs=2e-3)}
    sample = np.sort(np.random.default_rng(0).choice(test.positions, 20_000, replace=False))
    chain = markov.hit_rates(test, sample)
    forecaster, _ = next_code.trained(train, next_code.EXAMPLES, seed=0)
    model = forecaster.hit_rates(**test.sequences(sample))["model"]
    assert model["hit@1"] > chain["hit@1"] + 0.02
    assert model["hit@10"] > chain["hit@10"]
