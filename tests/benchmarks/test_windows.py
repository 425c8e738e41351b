import numpy as np
import pytest

from beam_transforms.events import event_batch
from beam_transforms.schema import LIVE_SCHEMA, EventKind
from benchmarks import windows

PEERS = (windows.polars_windows, windows.duckdb_windows, windows.pandas_windows)


def _sorted(columns: dict[str, np.ndarray]) -> list[list[float]]:
    names = [metric.name for metric in LIVE_SCHEMA.metrics]
    statistics = columns.get("statistics")
    statistics = np.stack([columns[name] for name in names], axis=1) if statistics is None else statistics
    ids = zip(columns["live_id"].tolist(), columns["window_end_ms"].tolist(), strict=True)
    return sorted([*key, *row] for key, row in zip(ids, statistics.tolist(), strict=True))


@pytest.mark.parametrize("compute", (windows.beam_windows, *PEERS))
def test_every_engine_counts_a_hand_made_log(compute):
    kinds = [EventKind.ENTER, EventKind.ENTER, EventKind.GIFT, EventKind.GIFT, EventKind.LEAVE, EventKind.LEAVE]
    times, users = [1_000, 1_000, 2_000, 2_000, 31_000, 61_000], [1, 2, 1, 1, 1, 3]
    # The second gift is the first once more; of the exits one is of nobody who entered.
    batch = event_batch(kinds, times, users, 5, 7, [1, 1, 2.5, 2.5, 30, 1])
    names = [metric.name for metric in LIVE_SCHEMA.metrics]
    rows = _sorted(compute([batch.slice(0, 3), batch.slice(3)]))
    assert [row[:2] for row in rows] == [[7, 30_000], [7, 60_000], [7, 90_000]]
    assert [dict(zip(names, row[2:], strict=True))["audience"] for row in rows] == [2, 1, 0]
    first = {name: value for name, value in zip(names, rows[0][2:], strict=True) if value}
    assert first == {"audience": 2, "gift_value": 2.5, "gift_count": 1}


def test_engines_agree_on_the_generated_log():
    (batch,) = windows.event_batches(3000)
    batches = [batch.slice(begin, 700) for begin in range(0, 3000, 700)]  # rows come again in another batch
    expected = _sorted(windows.beam_windows(batches))
    assert len(expected) > 1000
    for compute in PEERS:
        assert _sorted(compute(batches)) == expected


def test_the_generated_log_has_rows_that_came_twice():
    (batch,) = windows.event_batches(5000)
    rows = set(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    assert 4800 < len(rows) < 5000


def test_results_that_differ_are_an_error():
    sample = {"digest": "a", "windows": 1}
    with pytest.raises(windows.click.ClickException, match="results differ"):
        windows._require_equal({"beam": [sample], "polars": [sample | {"digest": "b"}]})
