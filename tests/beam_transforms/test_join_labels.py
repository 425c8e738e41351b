import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

from beam_transforms.columnar import to_batch
from beam_transforms.events import register_coders
from beam_transforms.fast_slow import FastSlow
from beam_transforms.join_labels import LABEL_COLUMNS, JoinLabels, label_columns
from beam_transforms.schema import LIVE_SCHEMA, EventKind
from tests.beam_transforms.event_logs import NOON_MS, log
from tests.beam_transforms.label_streams import FAR_MS, shown

TASKS = LIVE_SCHEMA.tasks

EVENTS = log(
    *((EventKind.ENTER, 10 + user, user, 0, 7, 1) for user in range(20)),
    *((EventKind.GIFT, 1000 + user, user, 0, 7, 1) for user in range(0, 20, 2)),
    (EventKind.LIKE, 5000, 99, 0, 8, 1),  # the newest event, of somebody who was shown nothing
)
IMPRESSIONS = shown(*((user, 7, 0) for user in range(22)), (3, 8, 0), (3, 7, 4900))


def _batches(columns, parts):
    return [to_batch({name: values[part::parts] for name, values in columns.items()}) for part in range(parts)]


def _rows(batches):
    return sorted(
        tuple(str(row[name]) for name in LABEL_COLUMNS) for batch in batches for row in pa.table(batch).to_pylist()
    )


def _expect(expected, events, impressions, **settings):
    """Runs the pipeline, asserts its rows, and gives its counters."""
    register_coders()

    def check(batches):
        assert all(tuple(batch.schema.names) == LABEL_COLUMNS for batch in batches)
        assert _rows(batches) == expected, f"got {_rows(batches)}"

    pipeline = TestPipeline(runner="FnApiRunner")
    inputs = {
        "events": pipeline | "Events" >> beam.Create(events).with_output_types(pa.RecordBatch),
        "impressions": pipeline | "Impressions" >> beam.Create(impressions).with_output_types(pa.RecordBatch),
    }
    assert_that(inputs | JoinLabels(FastSlow(), TASKS, **settings), check)
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("labels"))["counters"]
    return {counter.key.metric.name: counter.committed for counter in counters}


def test_shards_batches_and_duplicates_change_nothing():
    whole = label_columns(FastSlow(), EVENTS, IMPRESSIONS, TASKS, int(EVENTS["timestamp_ms"].max()))
    # All but the impression at 4900 are labelled by the newest event; ten users' gifts come late.
    assert len(whole["label"]) == 23 + 2 * 10
    expected = _rows([to_batch(whole)])
    counters = _expect(
        expected,
        _batches(EVENTS, 3) + _batches(EVENTS, 2),
        _batches(IMPRESSIONS, 2) + _batches(IMPRESSIONS, 1),
        shards=4,
    )
    assert counters == {"impressions": 24, "immature": 1}


def test_a_given_watermark_is_taken():
    watermark_ms = NOON_MS + 400_000
    whole = label_columns(FastSlow(), EVENTS, IMPRESSIONS, TASKS, watermark_ms)
    assert len(whole["label"]) == 23
    expected = _rows([to_batch(whole)])
    _expect(expected, _batches(EVENTS, 1), _batches(IMPRESSIONS, 1), shards=2, watermark_ms=watermark_ms)


def test_without_events_labels_are_those_of_the_watermark():
    assert _expect([], [], _batches(IMPRESSIONS, 1)) == {"impressions": 24, "immature": 24}
    nothing_followed = _rows([to_batch(label_columns(FastSlow(), log(), IMPRESSIONS, TASKS, FAR_MS))])
    assert len(nothing_followed) == 24
    _expect(nothing_followed, _batches(log(), 1), _batches(IMPRESSIONS, 2), watermark_ms=FAR_MS)


def test_without_impressions_there_is_no_batch():
    assert _expect([], _batches(EVENTS, 1), _batches(shown(), 1)) == {}


def test_rows_are_ordered_by_time_and_key():
    shuffled = {name: values[::-1] for name, values in IMPRESSIONS.items()}
    columns = label_columns(FastSlow(), EVENTS, IMPRESSIONS, TASKS, FAR_MS)
    again = label_columns(FastSlow(), EVENTS, shuffled, TASKS, FAR_MS)
    assert set(columns) == set(LABEL_COLUMNS)
    for name in LABEL_COLUMNS:
        np.testing.assert_array_equal(columns[name], again[name])
    assert (np.diff(columns["emitted_ms"]) >= 0).all()
    late = np.flatnonzero(columns["emitted_ms"] == NOON_MS + 3_600_000)
    assert columns["user_id"][late].tolist() == np.repeat(np.arange(0, 20, 2), 2).tolist()
    assert columns["weight"][late, 0].tolist() == [1, -1] * 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ()}, "tasks must hold at least one task"),
        ({"tasks": TASKS, "shards": 0}, "shards must be positive, got 0"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        JoinLabels(FastSlow(), **arguments)
