import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_transforms.codebook import Codebook
from beam_transforms.count_codes import CountCodes
from beam_transforms.events import register_coders
from beam_transforms.quantize_segments import QuantizeSegments, _Quantize
from beam_transforms.read_events import DEAD_LETTERS

CODEBOOK = Codebook(np.array([[0, 0], [10, 0], [0, 10], [10, 10]]))


def segments(live_id, author_id, timestamp_ms, embedding):
    ids = [pa.array(values, pa.int64()) for values in (live_id, author_id, timestamp_ms)]
    embedding = pa.array(embedding, pa.list_(pa.float32(), 2))
    return pa.RecordBatch.from_arrays([*ids, embedding], ["live_id", "author_id", "timestamp_ms", "embedding"])


def test_segments_become_semantic_ids_and_what_cannot_is_kept():
    register_coders()
    good = segments([7, 8], [1, 1], [29_999, 59_999], [[9, 1], [1, 9]])
    mixed = segments(
        [7, 7, 7, None, -1, 7],
        [1] * 6,
        [5, 6, 7, 8, 9, 10],
        [[9, 9], [np.nan, 0], None, [1, 1], [1, 1], [0, np.inf]],
    )

    def ids(batches):
        assert (
            sorted(row.items() for batch in batches for row in map(dict, batch.to_pylist()))
            and [batch.schema.names for batch in batches]
            == [["live_id", "author_id", "timestamp_ms", "semantic_id"]] * 2
        )
        rows = sorted(tuple(row.values()) for batch in batches for row in batch.to_pylist())
        assert rows == [(7, 1, 5, 3), (7, 1, 29_999, 1), (8, 1, 59_999, 2)]

    def letters(rows):
        assert [row["line"] for row in sorted(rows, key=lambda row: row["line"])] == [2, 3, 4, 5, 6]
        reasons = {row["line"]: row["reason"] for row in rows}
        assert all("expected an embedding of finite numbers" in reasons[line] for line in (2, 3, 6))
        assert "live_id, author_id, timestamp_ms >= 0, got None, 1, 8" in reasons[4]
        assert "got -1, 1, 9" in reasons[5]
        assert {row["text"] for row in rows} >= {"{'live_id': 7, 'author_id': 1, 'timestamp_ms': 6}"}

    with TestPipeline() as pipeline:
        found = pipeline | beam.Create([good, mixed, mixed.slice(0, 0)]) | QuantizeSegments(CODEBOOK)
        assert_that(found.semantic_ids, ids, label="Ids")
        assert_that(found[DEAD_LETTERS], letters, label="Letters")
        counts = found.semantic_ids | CountCodes(4) | beam.Map(np.ndarray.tolist)
        assert_that(counts, equal_to([[0, 1, 1, 1]]), label="Counts")
    counters = {c.key.metric.name: c.committed for c in pipeline.result.metrics().query()["counters"]}
    assert (counters["segments"], counters[DEAD_LETTERS]) == (3, 5)


def test_a_slice_is_quantised_as_what_it_shows():
    batch = segments([1, 2, 3, 4], [1] * 4, [5] * 4, [[0, 0], None, [9, 9], [0, 9]])
    outputs = list(_Quantize(CODEBOOK).process(batch.slice(1, 2)))
    assert outputs[0].value["text"] == "{'live_id': 2, 'author_id': 1, 'timestamp_ms': 5}"
    assert outputs[1].to_pylist() == [{"live_id": 3, "author_id": 1, "timestamp_ms": 5, "semantic_id": 3}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch.drop_columns(["live_id"]), r"\['live_id'\] missing"),
        (lambda batch: batch.drop_columns(["embedding"]), r"\['embedding'\] missing"),
        (
            lambda batch: batch.set_column(0, "live_id", pa.array([1.0])),
            "column live_id of segments must be int64, got double",
        ),
        (
            lambda batch: batch.set_column(3, "embedding", pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32(), 3))),
            f"embeddings of width 3, but codebook {CODEBOOK.version} has 4 codes of width 2",
        ),
        (
            lambda batch: batch.set_column(3, "embedding", pa.array([[1.0, 2.0]])),
            "must be a fixed-size list of 2 float32, got list",
        ),
    ],
)
def test_a_wrong_batch_is_named(change, message):
    batch = change(segments([1], [1], [5], [[0, 0]]))
    with pytest.raises(ValueError, match=message):
        list(_Quantize(CODEBOOK).process(batch))


def test_semantic_ids_of_a_larger_codebook_are_not_counted():
    counter = CountCodes(3)
    batch = pa.RecordBatch.from_arrays([pa.array([0, 3])], ["semantic_id"])
    with pytest.raises(ValueError, match="from 0 to 2, got 0 to 3: they are of another codebook"):
        [batch] | counter
    with pytest.raises(ValueError, match="codes must be positive, got 0"):
        CountCodes(0)
