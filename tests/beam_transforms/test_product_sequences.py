import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms.columnar import concatenate, take, to_batch, to_columns
from beam_transforms.events import register_coders
from beam_transforms.product_sequences import (
    PRODUCT_COLUMNS,
    ProductSequences,
    empty_product_state,
    fold_products,
    product_features,
)

MEMORY = 10


def products(*rows):
    """From rows of (live_id, timestamp_ms, product_id); categories follow from the product."""
    rows = [(live_id, live_id // 2, time, product, 1, product // 2, product + 100) for live_id, time, product in rows]
    columns = zip(*rows, strict=True) if rows else [()] * len(PRODUCT_COLUMNS)
    return {name: np.array(c, dtype=np.int64) for name, c in zip(PRODUCT_COLUMNS, columns, strict=True)}


def queries(*asked):
    ids, times = zip(*asked, strict=True)
    return {"live_id": np.array(ids), "as_of_ms": np.array(times)}


def test_products_of_a_hand_made_room():
    rows = products((7, 0, 4), (7, 2, 4), (7, 2, 4), (7, 5, 9), (7, 5, 3), (8, 1, 1))
    found = product_features(
        empty_product_state(), rows, queries((7, 0), (7, 3), (7, 6), (8, 6), (9, 6)), length=3, memory_ms=MEMORY
    )
    assert found["product_ids"].tolist() == [[-1, -1, -1], [-1, 4, 4], [4, 3, 9], [-1, -1, 1], [-1, -1, -1]]
    assert found["product_categories"].shape == (5, 3, 3)
    assert found["product_categories"][1].tolist() == [[-1, -1, -1], [1, 2, 104], [1, 2, 104]]
    assert found["product_categories"][2].tolist() == [[1, 2, 104], [1, 1, 103], [1, 4, 109]]
    assert (found["product_categories"][4] == -1).all()
    assert {values.dtype for values in found.values()} == {np.dtype("int64")}


def test_a_long_silence_forgets():
    rows = products((7, 0, 1), (7, 10, 2), (7, 21, 3))
    asked = queries((7, 20), (7, 21), (7, 31), (7, 32))
    found = product_features(empty_product_state(), rows, asked, length=2, memory_ms=MEMORY)
    assert found["product_ids"].tolist() == [[1, 2], [-1, -1], [-1, 3], [-1, -1]]


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.integers(0, 3)), max_size=40)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(1, 4))
def test_sequences_equal_counting_by_hand(rows, length):
    asked = [(room, time) for room in (0, 1, 2, 9) for time in (0, 5, 18, 33, 50, 55, 70)]
    found = product_features(empty_product_state(), products(*rows), queries(*asked), length, MEMORY)
    for row, (room, as_of_ms) in enumerate(asked):
        entries, last = [], as_of_ms
        for _, time, product in sorted({r for r in rows if r[0] == room and r[1] < as_of_ms}, reverse=True):
            if last - time > MEMORY:
                break
            entries, last = [*entries, (time, product)], time
        ids = [product for _, product in sorted(entries)][-length:]
        assert found["product_ids"][row].tolist() == [-1] * (length - len(ids)) + ids
        categories = found["product_categories"][row].tolist()
        assert categories == [[-1] * 3] * (length - len(ids)) + [[1, product // 2, product + 100] for product in ids]


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(1, 4), st.lists(st.integers(0, 65)), st.randoms())
def test_folding_in_any_steps_changes_nothing(rows, length, frontiers, random):
    everything, nothing = products(*rows), empty_product_state()
    state, frontier = nothing, 0
    for until in sorted(frontiers):
        step = [row for row in rows if frontier <= row[1] < until]
        random.shuffle(step)
        state, frontier = fold_products(state, products(*step), until, length, MEMORY), until
        assert np.bincount(state["live_id"], minlength=1).max() <= length
    if frontiers:
        at_once = fold_products(nothing, everything, frontier, length, MEMORY)
        for name, values in at_once.items():
            np.testing.assert_array_equal(state[name], values)
    later = take(everything, np.flatnonzero(everything["timestamp_ms"] >= frontier))
    asked = queries(*((room, frontier + after) for room in (0, 1, 2, 9) for after in (0, 1, 5, 10, 11, 40)))
    found = product_features(state, later, asked, length, MEMORY)
    for name, values in product_features(nothing, everything, asked, length, MEMORY).items():
        np.testing.assert_array_equal(found[name], values)


def test_transform_answers_each_query_once():
    register_coders()
    rows = products((7, 0, 4), (7, 2, 5), (8, 1, 1))
    asked = {**queries((7, 6), (8, 6), (6, 6)), "user_id": np.array([1, 2, 3])}

    def check(batches):
        answers = concatenate([to_columns([batch]) for batch in batches])
        answers = take(answers, np.argsort(answers["user_id"]))
        assert answers["product_ids"].tolist() == [[4, 5], [-1, 1], [-1, -1]]
        assert answers["product_categories"].tolist() == [
            [1, 2, 104, 1, 2, 105],
            [-1, -1, -1, 1, 0, 101],
            [-1] * 6,
        ]

    with TestPipeline() as pipeline:
        parts = [to_batch(take(rows, part)) for part in (np.array([2, 1]), np.array([0, 1]))]
        inputs = {
            "products": pipeline | "Rows" >> beam.Create(parts),
            "queries": pipeline | "Queries" >> beam.Create([to_batch(asked)]),
        }
        assert_that(inputs | ProductSequences(length=2), check)


@pytest.mark.parametrize("arguments", [{"length": 0}, {"memory_ms": -1}])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ValueError, match="length and memory_ms must be positive"):
        ProductSequences(**arguments)
