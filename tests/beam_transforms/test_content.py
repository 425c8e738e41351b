import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_transforms.columnar import to_batch, to_columns
from beam_transforms.content import (
    PRODUCT_ARROW_SCHEMA,
    PRODUCT_COLUMNS,
    SEGMENT_COLUMNS,
    product_batch,
    segment_arrow_schema,
    segment_batch,
)

SEGMENT = {"live_id": [1, 2], "author_id": 3, "timestamp_ms": [5, 6], "embedding": [[0.5, 1.0], [2.0, np.nan]]}
PRODUCT = {**dict.fromkeys(PRODUCT_COLUMNS, 1), "timestamp_ms": [5, 6]}


def test_columns_become_a_batch_of_segments_and_numbers_stand_for_all_rows():
    batch = segment_batch(**SEGMENT)
    assert batch.schema == segment_arrow_schema(2)
    assert batch.schema.names == list(SEGMENT_COLUMNS)
    rows = batch.to_pylist()
    assert rows[0] == {"live_id": 1, "author_id": 3, "timestamp_ms": 5, "embedding": [0.5, 1.0]}
    # The quantiser says what it makes of that.
    assert np.isnan(rows[1]["embedding"][1])


def test_columns_become_a_batch_of_products():
    batch = product_batch(**PRODUCT)
    assert batch.schema == PRODUCT_ARROW_SCHEMA
    assert batch["timestamp_ms"].to_pylist() == [5, 6]
    assert batch["category_3"].to_pylist() == [1, 1]


def test_there_may_be_no_row():
    nothing = np.zeros(0, dtype=np.int64)
    assert segment_batch(nothing, nothing, nothing, np.zeros((0, 4))).schema == segment_arrow_schema(4)
    assert product_batch(*[nothing] * 7).schema == PRODUCT_ARROW_SCHEMA


@given(st.integers(1, 5), st.lists(st.integers(0, 2**63 - 1), max_size=20))
def test_segments_survive_the_way_to_columns_and_back(width, rooms):
    rooms = np.array(rooms, dtype=np.int64)
    vectors = np.arange(len(rooms) * width, dtype=np.float32).reshape(-1, width)
    batch = segment_batch(rooms, 1, rooms // 2, vectors)
    columns = to_columns([batch])
    np.testing.assert_array_equal(columns["embedding"], vectors)
    assert columns["embedding"].dtype == np.float32
    assert to_columns([to_batch(columns)])["live_id"].tolist() == rooms.tolist()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"live_id": [1, -2]}, "live_id must be >= 0, got -2"),
        ({"author_id": [1, 2, 3]}, r"author_id must have the shape \(2,\)"),
        ({"author_id": 1.5}, "author_id must hold integers, got dtype float64"),
        ({"timestamp_ms": 5}, r"timestamp_ms must have the shape \(segments,\), got \(\)"),
        ({"embedding": [1.0, 2.0]}, r"embedding must have the shape \(2, W\) with W > 0, got \(2,\)"),
        ({"embedding": [[1.0]]}, r"got \(1, 1\)"),
        ({"embedding": [[], []]}, r"got \(2, 0\)"),
        ({"embedding": [["a"], ["b"]]}, "embedding must hold numbers"),
    ],
)
def test_a_bad_column_of_segments_is_named(changed, message):
    with pytest.raises(ValueError, match=message):
        segment_batch(**(SEGMENT | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"product_id": -1}, "product_id must be >= 0, got -1"),
        ({"category_2": [1]}, r"category_2 must have the shape \(2,\)"),
        ({"timestamp_ms": 5}, r"timestamp_ms must have the shape \(products,\)"),
    ],
)
def test_a_bad_column_of_products_is_named(changed, message):
    with pytest.raises(ValueError, match=message):
        product_batch(**(PRODUCT | changed))
