import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms.columnar import concatenate, empty, take, to_batch, to_columns
from beam_transforms.events import register_coders
from beam_transforms.schema import MEMORY_MS, ROOM_MEMORY_MS
from beam_transforms.sid_sequences import (
    SEMANTIC_ID_COLUMNS,
    SidSequences,
    empty_semantic_id_state,
    fold_semantic_ids,
    semantic_id_features,
)

MEMORY = 10


def segments(*rows):
    """From rows of (live_id, author_id, timestamp_ms, semantic_id)."""
    columns = zip(*rows, strict=True) if rows else [()] * 4
    return {name: np.array(c, dtype=np.int64) for name, c in zip(SEMANTIC_ID_COLUMNS, columns, strict=True)}


def queries(key, *asked):
    ids, times = zip(*asked, strict=True)
    return {key: np.array(ids), "as_of_ms": np.array(times)}


def runs(features, row):
    """The entries of a row without padding, as (semantic id, run length)."""
    ids, lengths = features["semantic_ids"][row].tolist(), features["run_lengths"][row].tolist()
    assert [i == -1 for i in ids] == [w == 0 for w in lengths] == sorted((i == -1 for i in ids), reverse=True)
    return [(i, w) for i, w in zip(ids, lengths, strict=True) if w]


def test_runs_of_a_hand_made_room():
    rows = segments((7, 1, 0, 5), (7, 1, 1, 5), (7, 1, 2, 6), (7, 1, 3, 5), (7, 1, 4, 5), (7, 1, 5, 5), (8, 1, 2, 9))
    asked = queries("live_id", (7, 0), (7, 1), (7, 2), (7, 3), (7, 5), (7, 6), (8, 6), (9, 6))
    found = semantic_id_features(empty_semantic_id_state("live_id"), rows, asked, "live_id", 3, MEMORY)
    assert found["semantic_ids"].dtype == found["run_lengths"].dtype == np.int64
    assert [runs(found, row) for row in range(8)] == [
        [],  # the segment at the very time of the query isn't seen
        [(5, 1)],
        [(5, 2)],
        [(5, 2), (6, 1)],
        [(5, 2), (6, 1), (5, 2)],
        [(5, 2), (6, 1), (5, 3)],
        [(9, 1)],
        [],
    ]
    last = semantic_id_features(empty_semantic_id_state("live_id"), rows, asked, "live_id", 2, MEMORY)
    assert runs(last, 5) == [(6, 1), (5, 3)]


def test_an_author_has_one_sequence_across_rooms():
    rows = segments((7, 1, 0, 5), (8, 1, 2, 5), (7, 1, 1, 5), (9, 2, 1, 5), (8, 1, 3, 4), (7, 1, 3, 6))
    found = semantic_id_features(
        empty_semantic_id_state("author_id"), rows, queries("author_id", (1, 9)), "author_id", 4, MEMORY
    )
    assert runs(found, 0) == [(5, 3), (6, 1), (4, 1)]  # of two rooms at one time, the smaller live_id first


def test_a_segment_that_came_twice_counts_once_with_its_smallest_id():
    for key, one in (("live_id", 7), ("author_id", 1)):
        rows = segments((7, 1, 0, 5), (7, 1, 1, 9), (7, 1, 0, 5), (7, 1, 1, 5), (7, 1, 1, 8))
        found = semantic_id_features(empty_semantic_id_state(key), rows, queries(key, (one, 9)), key, 4, MEMORY)
        assert runs(found, 0) == [(5, 2)]


def test_a_long_silence_forgets_but_a_long_run_does_not():
    state = empty_semantic_id_state("live_id")
    asked = queries("live_id", (7, 11), (7, 12), (7, 31), (7, 32))
    rows = segments((7, 1, 0, 5), (7, 1, 1, 6), (7, 1, 12, 6), (7, 1, 21, 6))
    found = semantic_id_features(state, rows, asked, "live_id", 4, MEMORY)
    assert [runs(found, row) for row in range(4)] == [[(5, 1), (6, 1)], [], [(6, 2)], []]
    # Two runs whose ends are further apart than the memory, without a silence between segments.
    rows = segments((7, 1, 0, 5), *((7, 1, time, 6) for time in range(5, 30, 5)))
    folded = fold_semantic_ids(state, rows, "live_id", 4, MEMORY, 26)
    assert folded["timestamp_ms"].tolist() == [0, 25]
    assert folded["run_length"].tolist() == [1, 5]
    found = semantic_id_features(folded, segments((7, 1, 30, 6)), queries("live_id", (7, 31)), "live_id", 4, MEMORY)
    assert runs(found, 0) == [(5, 1), (6, 6)]


def test_a_state_is_bounded_and_loses_silent_keys():
    rows = segments(*((7, 1, time, time % 3) for time in range(50)), (8, 1, 3, 5))
    state = fold_semantic_ids(empty_semantic_id_state("live_id"), rows, "live_id", 4, MEMORY, 50)
    assert state["live_id"].tolist() == [7, 7, 7, 7]
    assert state["semantic_id"].tolist() == [1, 2, 0, 1]
    nothing = fold_semantic_ids(state, empty(SEMANTIC_ID_COLUMNS), "live_id", 4, MEMORY, 60)
    assert {name: values.dtype for name, values in nothing.items()} == dict.fromkeys(state, np.dtype("int64"))
    assert not len(nothing["live_id"])


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 2)).map(lambda r: (r[0], r[0] // 2, r[1], r[2])),
    max_size=40,
)


def by_hand(rows, key, asked, as_of_ms, length):
    """The same, a segment at a time."""
    best = {}
    for live_id, author_id, time, semantic_id in rows:
        if (live_id if key == "live_id" else author_id) == asked and time < as_of_ms:
            best[time, live_id] = min(semantic_id, best.get((time, live_id), semantic_id))
    found, last = [], None
    for (time, _), semantic_id in sorted(best.items()):
        if last is not None and time - last > MEMORY:
            found = []
        if found and found[-1][0] == semantic_id:
            found[-1] = (semantic_id, found[-1][1] + 1)
        else:
            found.append((semantic_id, 1))
        last = time
    return found[-length:] if last is not None and as_of_ms - last <= MEMORY else []


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from(["live_id", "author_id"]), st.integers(1, 4))
def test_sequences_equal_counting_by_hand(rows, key, length):
    asked = [(one, time) for one in (0, 1, 2, 3, 9) for time in (0, 7, 20, 33, 60, 65, 90)]
    found = semantic_id_features(
        empty_semantic_id_state(key), segments(*rows), queries(key, *asked), key, length, MEMORY
    )
    for row, (one, time) in enumerate(asked):
        assert runs(found, row) == by_hand(rows, key, one, time, length)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.sampled_from(["live_id", "author_id"]), st.integers(1, 4), st.lists(st.integers(0, 75)), st.randoms())
def test_folding_in_any_steps_changes_nothing(rows, key, length, frontiers, random):
    everything, nothing = segments(*rows), empty_semantic_id_state(key)
    state, frontier = nothing, 0
    for until in sorted(frontiers):
        step = [row for row in rows if frontier <= row[2] < until]
        random.shuffle(step)
        state, frontier = fold_semantic_ids(state, segments(*step), key, length, MEMORY, until), until
    if frontiers:
        at_once = fold_semantic_ids(nothing, everything, key, length, MEMORY, frontier)
        for name, values in at_once.items():
            np.testing.assert_array_equal(state[name], values)
    later = take(everything, np.flatnonzero(everything["timestamp_ms"] >= frontier))
    asked = queries(key, *((one, frontier + after) for one in (0, 1, 2, 3, 9) for after in (0, 1, 5, 10, 11, 40)))
    found = semantic_id_features(state, later, asked, key, length, MEMORY)
    expected = semantic_id_features(nothing, everything, asked, key, length, MEMORY)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_rows_with_ids_and_times_far_apart_are_ordered_too():
    far = 2**62  # does not fit one integer together with the time
    rows = segments((far, 1, 10**12, 5), (3, 1, 0, 4), (far, 1, 10**12 + 5, 6), (3, 1, 1, 4))
    asked = queries("live_id", (far, 10**12 + 6), (3, 2))
    found = semantic_id_features(empty_semantic_id_state("live_id"), rows, asked, "live_id", 4, MEMORY)
    assert [runs(found, row) for row in range(2)] == [[(5, 1), (6, 1)], [(4, 2)]]


def test_transform_answers_each_query_once():
    register_coders()
    rows = segments((7, 1, 0, 5), (7, 1, 1, 5), (7, 1, 2, 6), (8, 2, 2, 9))
    asked = {"user_id": np.array([1, 2, 3, 4]), **queries("live_id", (7, 9), (8, 9), (6, 9), (7, 9))}

    def check(batches):
        answers = concatenate([to_columns([batch]) for batch in batches])
        assert list(answers) == ["user_id", "live_id", "as_of_ms", "semantic_ids", "run_lengths"]
        answers = take(answers, np.argsort(answers["user_id"]))
        assert answers["user_id"].tolist() == [1, 2, 3, 4]
        assert [runs(answers, row) for row in range(4)] == [[(5, 2), (6, 1)], [(9, 1)], [], [(5, 2), (6, 1)]]

    with TestPipeline() as pipeline:
        parts = [to_batch(take(rows, part)) for part in (np.array([3, 1]), np.array([2, 0, 1]))]
        inputs = {
            "semantic_ids": pipeline | "Rows" >> beam.Create(parts),
            "queries": pipeline | "Queries" >> beam.Create([to_batch(asked)]),
        }
        assert_that(inputs | SidSequences("live_id", length=3, max_run=2), check)


def test_what_else_a_query_has_is_carried_along_as_it_is():
    register_coders()
    whole = {"live_id": [7, 8], "as_of_ms": [9, 9], "request": [2**60 + 1, None], "tags": [["a", None], None]}
    less = {"as_of_ms": [9, 1], "live_id": [7, 7], "country": [None, "de"]}

    def check(batches):
        answers = pa.concat_tables([pa.table(batch) for batch in batches], promote_options="permissive").to_pylist()
        asked = {(row["live_id"], row["request"], row["country"]): row for row in answers}
        assert len(asked) == len(answers) == 4
        assert asked[7, 2**60 + 1, None]["tags"] == ["a", None]
        assert asked[8, None, None]["tags"] is None
        assert asked[7, None, None]["semantic_ids"] == asked[7, 2**60 + 1, None]["semantic_ids"] == [-1, 5]
        assert asked[7, None, "de"]["semantic_ids"] == [-1, -1]

    with TestPipeline() as pipeline:
        asked = [pa.RecordBatch.from_pydict(part) for part in (whole, less)]
        inputs = {
            "semantic_ids": pipeline | "Rows" >> beam.Create([to_batch(segments((7, 1, 3, 5)))]),
            "queries": pipeline | "Queries" >> beam.Create([*asked, asked[0][:0]]),
        }
        assert_that(inputs | SidSequences("live_id", length=2), check)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1, None, 3]), "'as_of_ms' must not hold nulls, got 1 in 3 rows; leave those rows out"),
        (pa.array([1.0]), "'as_of_ms' must be int64, got double; cast it"),
    ],
)
def test_a_null_or_another_type_in_a_needed_column_is_refused(values, message):
    batch = pa.RecordBatch.from_arrays([values], ["as_of_ms"])
    with pytest.raises(ValueError, match=f"queries: the column {message}"):
        SidSequences("live_id")._checked(batch, "queries", ("as_of_ms",))


def test_a_missing_column_is_named():
    transform = SidSequences("author_id")
    with pytest.raises(ValueError, match=r"queries need .*'author_id'.* missing; got \['as_of_ms'\]"):
        transform._checked(to_batch({"as_of_ms": np.array([1])}), "queries", ("author_id", "as_of_ms"))
    with pytest.raises(ValueError, match="expected a dict of the PCollections 'semantic_ids' and 'queries'"):
        transform.expand({"products": None, "queries": None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "user_id"}, "key must be one of .*, got 'user_id'"),
        ({"key": "live_id", "length": 0}, "must be positive, got 0"),
        ({"key": "live_id", "max_run": 0}, "must be positive"),
        ({"key": "live_id", "memory_ms": 0}, "must be positive"),
        ({"key": "live_id", "shards": 0}, "shards must be positive, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SidSequences(**arguments)


def test_rooms_are_forgotten_sooner_than_authors():
    assert SidSequences("live_id")._memory_ms == ROOM_MEMORY_MS < SidSequences("author_id")._memory_ms == MEMORY_MS
