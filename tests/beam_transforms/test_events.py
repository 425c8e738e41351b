import pickle

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam import coders
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from beam_transforms.events import EVENT_ARROW_SCHEMA, RecordBatchCoder, event_batch, register_coders
from beam_transforms.schema import EVENT_COLUMNS, EventKind

IDS = st.integers(0, 2**63 - 1)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([kind for kind in EventKind if kind < EventKind.ROOM_START]),
        IDS,
        IDS,
        IDS,
        IDS,
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    max_size=50,
)


def batch_of(events):
    columns = (
        [np.array(column) for column in zip(*events, strict=True)] if events else [np.zeros(0, dtype=np.int64)] * 6
    )
    return event_batch(*columns)


def test_the_arrow_schema_is_the_schema_of_events():
    assert EVENT_ARROW_SCHEMA.names == list(EVENT_COLUMNS)
    assert [str(field.type) for field in EVENT_ARROW_SCHEMA] == ["int8", "int64", "int64", "int64", "int64", "float"]


def test_columns_become_a_batch_and_numbers_stand_for_all_rows():
    batch = event_batch(EventKind.GIFT, np.array([5, 6]), [1, 2], 3, np.array([7, 8], dtype=np.int32), 2.5)
    assert batch.schema == EVENT_ARROW_SCHEMA
    assert batch.to_pylist() == [
        {"kind": 8, "timestamp_ms": 5, "user_id": 1, "author_id": 3, "live_id": 7, "value": 2.5},
        {"kind": 8, "timestamp_ms": 6, "user_id": 2, "author_id": 3, "live_id": 8, "value": 2.5},
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": 99}, r"kind must be a number of EventKind, got \[99\]"),
        ({"kind": 300}, r"got \[300\]"),
        ({"user_id": [1, -1]}, "user_id must be >= 0, .* got -1 for LIKE"),
        ({"kind": EventKind.ROOM_START, "user_id": 5}, "got 5 for ROOM_START"),
        ({"author_id": -1}, "author_id must be >= 0, got -1"),
        ({"live_id": [3, -7]}, "live_id must be >= 0, got -7"),
        ({"timestamp_ms": [5, -6]}, "timestamp_ms must be >= 0, got -6"),
        ({"value": [1.0, float("nan")]}, "value must be finite"),
        ({"live_id": [1.5, 2.0]}, "live_id must hold integers, got dtype float64"),
        ({"value": ["a", "b"]}, "value must hold numbers"),
        ({"user_id": [1, 2, 3]}, r"user_id must have the shape \(2,\)"),
        ({"timestamp_ms": 5}, r"timestamp_ms must have the shape \(events,\)"),
    ],
)
def test_a_bad_column_is_named(changed, message):
    columns = {"kind": EventKind.LIKE, "timestamp_ms": [5, 6], "user_id": [1, 2], "author_id": 3, "live_id": 4}
    with pytest.raises(ValueError, match=message):
        event_batch(**(columns | changed))


def test_room_events_have_no_user():
    batch = event_batch([EventKind.ROOM_START, EventKind.ROOM_END], [1, 2], -1, 3, 4)
    assert batch["user_id"].to_pylist() == [-1, -1]


@given(EVENTS)
def test_a_batch_survives_the_coder(events):
    batch = batch_of(events)
    decoded = RecordBatchCoder().decode(RecordBatchCoder().encode(batch))
    assert decoded.equals(batch)
    assert decoded.schema == EVENT_ARROW_SCHEMA


@given(EVENTS, st.integers(0, 20), st.integers(0, 20))
def test_equal_batches_have_equal_bytes(events, first, length):
    shown = batch_of(events).slice(first, length)
    alone = batch_of(events[first : first + length])
    assert shown.equals(alone)
    assert RecordBatchCoder().encode(shown) == RecordBatchCoder().encode(alone)


def test_the_coder_takes_any_schema_and_compresses():
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(64_000)), 64)
    batch = pa.RecordBatch.from_arrays([wide, pa.array(["room"] * 1000)], names=["embedding", "name"])
    encoded = RecordBatchCoder().encode(batch)
    assert RecordBatchCoder().decode(encoded).equals(batch)
    assert len(encoded) < batch.nbytes / 20


def test_beam_takes_the_coder_for_record_batches():
    register_coders()
    register_coders()
    coder = coders.registry.get_coder(pa.RecordBatch)
    assert coder == RecordBatchCoder()
    assert coder.is_deterministic()
    assert pickle.loads(pickle.dumps(coder)) == coder  # noqa: S301
    with beam.Pipeline("FnApiRunner") as pipeline:
        batches = (
            pipeline
            | beam.Create([1, 2])
            | beam.Map(lambda user: (user, batch_of([(EventKind.LIKE, 5, user, 3, 4, 1.0)]))).with_output_types(
                tuple[int, pa.RecordBatch]
            )
            | beam.GroupByKey()
            | beam.Map(lambda item: [batch.column("user_id").to_pylist() for batch in item[1]])
        )
        assert_that(batches, equal_to([[[1]], [[2]]]))
