import numpy as np
import polars as pl

from beam_transforms.columnar import to_batch
from benchmarks import sids


def test_segments_of_an_author_follow_each_other():
    columns = sids.segments_of_authors(3000, 10)
    assert (np.diff(columns["timestamp_ms"]) >= 0).all()
    of_one = columns["timestamp_ms"][columns["author_id"] == 4]
    assert (np.diff(of_one) == 30_000).all()
    assert 0.2 < np.mean(np.diff(columns["semantic_id"][columns["author_id"] == 4]) != 0) < 0.45


def test_both_count_the_last_runs_of_each_author_without_duplicates():
    columns = {
        "live_id": np.array([6, 6, 6, 6, 6, 3, 3]),
        "author_id": np.array([2, 2, 2, 2, 2, 1, 1]),
        "timestamp_ms": np.array([5, 5, 9, 7, 11, 3, 4]),
        "semantic_id": np.array([4, 4, 8, 4, 4, 4, 4]),
    }
    # Author 2: 4 4 8 4, the row at 5 once; author 1: 4 4.
    assert sids.polars_sequences(pl.DataFrame(columns)) == (4, 6)
    batch = to_batch(columns)
    assert sids.beam_sequences([batch.slice(0, 2), batch.slice(2)], authors=4) == (4, 6)


def test_run_reports_three_goals():
    result = sids.run(segments=2000, authors=10, codes=50, vectors=40, rounds=1)
    assert [goal["goal"] for goal in result["goals"]] == [1_500_000, 1.0, 1.0]
    assert all(goal["value"] > 0 for goal in result["goals"])
    assert {len(rates) for rates in result["per_cpu_second"].values()} == {1}
