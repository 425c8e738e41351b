"""What a stage refuses, and when it comes to rest."""

import dataclasses

import numpy as np
import pytest

from beam_transforms.columnar import concatenate, take
from beam_transforms.feature_stages import stages
from beam_transforms.impressions import IMPRESSION_COLUMNS
from beam_transforms.labels import FastWindow
from beam_transforms.local_stages import LocalStages
from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, Aggregate, EventKind, HistoryCounts, Metric
from beam_transforms.stage import StageState, advance
from beam_transforms.window_statistics import _CountedWindows, _RoomWindows
from tests.beam_transforms.event_logs import NOON_MS, log

LIKE = log((EventKind.LIKE, 10, 1, 0, 0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": np.array([18], np.int8)}, "kind must be a number of EventKind"),
        ({"value": np.array([np.nan], np.float32)}, "value must be finite"),
        ({"timestamp_ms": np.array([-1])}, "timestamp_ms must be >= 0, got -1"),
        ({"user_id": np.array([2**60 + 1], np.uint64)}, "events: the column 'user_id' must be int64"),
        ({"value": np.array([1.0])}, "events: the column 'value' must be float32"),
    ],
)
def test_rows_that_would_be_counted_wrongly_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LocalStages(LIVE_SCHEMA, FastWindow()).step({"events": [LIKE | change]}, NOON_MS + WINDOW_MS)


def test_a_block_longer_than_a_lookback_is_stepped_through_to_its_end():
    """A shard rests by the time of its rows, not of their arrival: lookbacks of the last ones have to run out."""
    user, *_ = stages(LIVE_SCHEMA, FastWindow(), store=True)
    events = log(*((EventKind.EXPOSURE, 60.0 * minute, 1, 0, 0, 1) for minute in range(120)))
    state, now_ms, written = StageState.first(user), NOON_MS, []
    arrived = {"events": [events]}
    while True:
        now_ms += WINDOW_MS
        state, outputs = advance(user, state, arrived, now_ms, 0)
        arrived = {}
        written.append(outputs["stored_user_id"]["user_counts"])
        if not user.waits(state):
            break
    column = LIVE_SCHEMA.histories[0].columns.index("exposure_count_3600s")
    assert [rows[0, column] for rows in written if len(rows)][-1] == 0
    assert now_ms >= NOON_MS + 119 * 60_000 + 3_600_000


def test_of_two_authors_of_one_impression_the_least_is_taken_whatever_comes_first():
    shown = log((EventKind.EXPOSURE, 40, 1, 3, 7, 1), (EventKind.EXPOSURE, 40, 1, 4, 7, 1))
    impressions = {name: shown[name] for name in IMPRESSION_COLUMNS}
    for order in ([0, 1], [1, 0]):
        arrived = {"events": [shown], "impressions": [take(impressions, np.array(order))]}
        examples = LocalStages(LIVE_SCHEMA, FastWindow()).step(arrived, NOON_MS + 3_600_000)["examples"]
        assert examples["author_id"].tolist() == [3]
        # The other one a window later, within the lateness.
        stream, found = LocalStages(LIVE_SCHEMA, FastWindow(), lateness_ms=2 * WINDOW_MS), []
        for step, row in enumerate([*order, *[None] * 20]):
            now = {} if row is None else {"impressions": [take(impressions, np.array([row]))]}
            now |= {} if step else {"events": [shown]}
            found.append(stream.step(now, NOON_MS + (2 + step) * WINDOW_MS)["examples"])
        (late,) = [rows for rows in found if len(rows["author_id"])]
        for name, values in examples.items():
            np.testing.assert_array_equal(late[name], values, err_msg=name)


@pytest.mark.parametrize("period_s", [10, 20, 30, 45, 60, 90])
def test_windows_of_any_period_are_equal_in_batch_and_stream(period_s):
    metrics = (
        Metric("chatter", "out_of_room", EventKind.COMMENT, Aggregate.USERS),
        Metric("audience", "out_of_room", EventKind.ENTER, Aggregate.PRESENT),
    )
    rng = np.random.default_rng(period_s)
    kinds = (EventKind.COMMENT, EventKind.ENTER, EventKind.LEAVE)
    rows = [(kinds[rng.integers(3)], float(rng.integers(600)), int(rng.integers(4)), 0, 7, 1) for _ in range(80)]
    end_ms = NOON_MS + 900_000
    batch = _windows(log(*rows), metrics, period_s, [end_ms])
    stream = _windows(log(*rows), metrics, period_s, range(NOON_MS + WINDOW_MS, end_ms + 1, WINDOW_MS))
    assert len(batch["live_id"]) > 5
    for name, values in batch.items():
        np.testing.assert_array_equal(stream[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("period_h", "enters_h", "present"),
    [
        (6, np.arange(1, 150) / 6, [35, 71, 107, 143, 149]),  # one user every ten minutes, and nobody leaves
        (2, (0.5, 1.9, 4.1, 4.2, 5.9), [2, 5]),  # an empty window, but silent for 2.2 hours only
        (2, (0.5, 1.0, 4.1, 4.2, 5.9), [2, 3]),  # silent for 3.1 hours: the first two are forgotten
        (6, (1.0, 5.9, 6.1, 11.0, 15.0, 18.1), [2, 4, 1, 1]),
        (0.5, (0.4, 3.3, 6.4, 6.6), [1, 2, 1, 2]),
    ],
)
def test_users_present_stay_in_long_windows_until_the_room_was_silent_for_three_hours(period_h, enters_h, present):
    metrics = (Metric("audience", "out_of_room", EventKind.ENTER, Aggregate.PRESENT),)
    events = log(*((EventKind.ENTER, 3600 * hour, user, 0, 7, 1) for user, hour in enumerate(enters_h)))
    end_ms = NOON_MS + 36 * 3_600_000
    for ends in ([end_ms], range(NOON_MS + 600_000, end_ms + 1, 600_000)):
        assert _windows(events, metrics, period_h * 3600, ends)["statistics"][:, 0].tolist() == present


def _windows(events, metrics, period_s, ends):
    """Windows of a period, when the clock steps to each of `ends`."""
    period_ms = int(period_s * 1000)
    counted, by_room = _CountedWindows(metrics, period_ms, True), _RoomWindows(metrics, period_ms)
    states = [StageState.first(counted), StageState.first(by_room)]
    found, before = [], 0
    for end in ends:
        now = take(events, (events["timestamp_ms"] >= before) & (events["timestamp_ms"] < end))
        states[0], partial = advance(counted, states[0], {"events": [now]}, end, 0)
        states[1], windows = advance(by_room, states[1], {"room_windows": [partial["room_windows"]]}, end, 0)
        found.append(windows["windows"])
        before = end
    return concatenate(found)


def test_histories_that_no_stage_computes_are_refused():
    kinds = (EventKind.LIKE,)
    for history, message in (
        (HistoryCounts("author_room", ("author_id", "live_id"), kinds), "must have a key of user_id"),
        (HistoryCounts("entries", ("user_id",), kinds), "must have another name"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(LIVE_SCHEMA, histories=(history,))
