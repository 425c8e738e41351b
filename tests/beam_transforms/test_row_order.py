import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms._narrow_integers import narrow, widen
from beam_transforms._row_order import dense_codes, small_order, stable_order
from beam_transforms.columnar import Groups, distinct_rows, split_by_shard, to_batch, to_columns
from beam_transforms.events import RecordBatchCoder

_INT64 = st.integers(-(2**63), 2**63 - 1)
_CODES = st.one_of(st.lists(st.integers(-5, 5), max_size=40), st.lists(_INT64, max_size=20))


@settings(max_examples=200, deadline=None)
@given(_CODES)
def test_order_and_codes_are_numpys(values):
    codes = np.array(values, dtype=np.int64)
    np.testing.assert_array_equal(stable_order(codes), np.argsort(codes, kind="stable"))
    expected = np.unique(codes, return_inverse=True)
    np.testing.assert_array_equal(dense_codes(codes)[0], expected[1])
    assert dense_codes(codes)[1] == len(expected[0])


@pytest.mark.parametrize("count", (3, 300, 70_000))
def test_order_of_small_numbers(count):
    numbers = np.random.default_rng(count).integers(0, count, 5000)
    np.testing.assert_array_equal(small_order(numbers, count), np.argsort(numbers, kind="stable"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.sampled_from([0.0, -0.0, 1.5]), st.booleans()), max_size=30))
def test_the_first_of_equal_rows_stays(rows):
    columns = {
        "id": np.array([row[0] for row in rows], dtype=np.int8),
        "value": np.array([row[1] for row in rows], dtype=np.float32),
        "flag": np.array([row[2] for row in rows], dtype=bool),
    }
    keys = [(row[0], np.float32(row[1]).tobytes(), row[2]) for row in rows]
    assert distinct_rows(columns).tolist() == [place for place, key in enumerate(keys) if key not in keys[:place]]


def test_groups_reduce_rows_in_any_order():
    groups = Groups([np.array([7, 5, 7, 5]), np.array([1, 2, 1, 3])])
    assert (groups.count, groups.first.tolist(), groups.group.tolist()) == (3, [1, 3, 0], [2, 0, 2, 1])
    assert groups.reduce(np.add, np.array([[1, 1], [2, 2], [3, 3], [4, 4]])).tolist() == [[2, 2], [4, 4], [4, 4]]


def test_a_batch_is_cut_in_order():
    batch = to_batch({"id": np.arange(6), "wide": np.arange(12.0).reshape(6, 2)})
    parts = dict(split_by_shard(batch, np.array([4, 0, 4, 0, 4, 9])))
    assert {shard: to_columns([part])["id"].tolist() for shard, part in parts.items()} == {
        0: [1, 3],
        4: [0, 2, 4],
        9: [5],
    }
    assert to_columns([parts[9]])["wide"].tolist() == [[10, 11]]
    assert all(part.schema == batch.schema for part in parts.values())


@pytest.mark.parametrize("span", (0, 255, 256, 2**16, 2**32 - 1, 2**32, 2**62))
@pytest.mark.parametrize("low", (-(2**62), -1, 0, 1_760_000_000_000))
def test_narrow_integers_come_back_as_they_were(span, low):
    rows = 2000
    values = np.linspace(0, 1, rows) * span
    column = low + values.astype(np.int64)
    column[-1] = low + span
    columns = {"time": column, "value": values.astype(np.float32), "counts": np.stack([column, column[::-1]], axis=1)}
    batch = to_batch(columns).replace_schema_metadata({"of": "test"})
    narrowed = narrow(batch)
    assert (narrowed.nbytes < batch.nbytes) == (span < 2**32)
    assert widen(narrowed).equals(batch, check_metadata=True)
    assert RecordBatchCoder().decode(RecordBatchCoder().encode(batch)).equals(batch, check_metadata=True)


def test_nulls_are_left_alone():
    batch = pa.RecordBatch.from_pydict({"id": pa.array([1, None] * 1000), "other": pa.array(range(2000))})
    assert widen(narrow(batch)).equals(batch)
    assert RecordBatchCoder().decode(RecordBatchCoder().encode(batch)).equals(batch)
