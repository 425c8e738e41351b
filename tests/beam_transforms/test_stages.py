"""Batch and stream are one: the stages in one step, and the same in many, with shuffled, doubled and late rows."""

import dataclasses

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from beam_transforms.columnar import Columns, concatenate, take
from beam_transforms.fast_slow import FastSlow
from beam_transforms.first_only import FirstOnly
from beam_transforms.impressions import IMPRESSION_COLUMNS
from beam_transforms.labels import FastWindow
from beam_transforms.local_stages import LocalStages
from beam_transforms.record_layout import layouts
from beam_transforms.schema import CHAT_SCHEMA, LIVE_SCHEMA, WINDOW_MS, EventKind
from beam_transforms.sliver import Sliver
from beam_transforms.stage import stored_table
from tests.beam_transforms.event_logs import NOON_MS, event_rows, log

SCHEMA = dataclasses.replace(
    LIVE_SCHEMA, semantic_id_length=4, codes=5, codebook="v", product_length=3, categories=(2, 3, 4)
)
LATENESS_MS = 2 * WINDOW_MS
NO_SHRINK = [Phase.explicit, Phase.reuse, Phase.generate]
POLICIES = [FastWindow(120.0, {"ctr": 30.0, "evtr": 45.0}), FastSlow(), Sliver(), FirstOnly()]


@st.composite
def content(draw):
    """Semantic ids and products of the rooms of `event_rows`."""
    rows = draw(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 3), st.integers(0, 4)), max_size=30))
    times, rooms, codes = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    shared = {"live_id": rooms, "author_id": rooms // 2, "timestamp_ms": NOON_MS + times * 1000}
    first = np.unique(np.stack([times, rooms]), axis=1, return_index=True)[1] if rows else np.zeros(0, int)
    semantic_ids = take(shared | {"semantic_id": codes}, first)
    names = ("product_id", "category_1", "category_2", "category_3")
    return semantic_ids, shared | {name: codes + place for place, name in enumerate(names)}


def _tables(events: Columns, semantic_ids: Columns, products: Columns) -> dict[str, Columns]:
    exposures = take(events, np.flatnonzero(events["kind"] == EventKind.EXPOSURE))
    impressions = {name: exposures[name] for name in IMPRESSION_COLUMNS}
    return {"events": events, "impressions": impressions, "semantic_ids": semantic_ids, "products": products}


def _replay(tables, policy, schema, seed, first_ms, last_ms, most_windows):
    """Steps of random length; rows in random order, up to `LATENESS_MS` late, some of them twice."""
    rng = np.random.default_rng(seed)
    due = {}
    for name, rows in tables.items():
        count = len(rows["timestamp_ms"])
        if count and (schema.deduplicate or name != "events"):
            rows = take(rows, np.concatenate([np.arange(count), rng.integers(0, count, 5)]))
        rows = take(rows, rng.permutation(len(rows["timestamp_ms"])))
        due[name] = rows, rows["timestamp_ms"] + rng.integers(0, LATENESS_MS, len(rows["timestamp_ms"]))
    stages = LocalStages(schema, policy, LATENESS_MS)
    now_ms, outputs = first_ms, []
    while now_ms < last_ms:
        before, now_ms = now_ms, min(now_ms + WINDOW_MS * int(rng.integers(1, most_windows + 1)), last_ms)
        arrived = {
            name: [take(rows, np.flatnonzero((arrival >= before) & (arrival < now_ms)))]
            for name, (rows, arrival) in due.items()
        }
        outputs.append(stages.step(arrived, now_ms))
        # All that is known goes through its bytes: what a crash leaves.
        stages = LocalStages(schema, policy, LATENESS_MS, stages.state)
    return outputs


def _sorted(rows: Columns) -> Columns:
    names = [name for name in rows if rows[name].ndim == 1]
    totals = [rows["label"].sum(axis=1)] if "label" in rows else []
    return take(rows, np.lexsort([*totals, *(rows[name] for name in names)]))


def _features(schema, key, rows: Columns, as_of_ms: int) -> dict[tuple, list]:
    """Records as a request sees them: id -> features as of a time."""
    layout = layouts(schema)[key]
    found = layout.columns(layout.records(rows, as_of_ms), as_of_ms)
    ids = zip(*(rows[name].tolist() for name in key), strict=True)
    return {id_: [found[name][row].tolist() for name in found] for row, id_ in enumerate(ids)}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@settings(max_examples=3, deadline=None, phases=NO_SHRINK)
@given(rows=event_rows(), content=content(), seed=st.integers(0, 2**20), most_windows=st.sampled_from([1, 3, 50]))
def test_a_stream_gives_the_examples_of_a_batch(policy, rows, content, seed, most_windows):
    tables = _tables(log(*rows), *content)
    last_ms = NOON_MS + (1200 + 4000) * 1000 // WINDOW_MS * WINDOW_MS
    batch = LocalStages(SCHEMA, policy).step({name: [rows] for name, rows in tables.items()}, last_ms - LATENESS_MS)
    stream = _replay(tables, policy, SCHEMA, seed, NOON_MS, last_ms, most_windows)
    assert not any(name.startswith("late_") for outputs in stream for name in outputs)
    expected, found = _sorted(batch["examples"]), _sorted(concatenate([outputs["examples"] for outputs in stream]))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("schema", [SCHEMA, CHAT_SCHEMA], ids=lambda schema: schema.name)
@settings(max_examples=3, deadline=None, phases=NO_SHRINK)
@given(rows=event_rows(), content=content(), seed=st.integers(0, 2**20), end=st.integers(1, 60))
def test_a_stream_leaves_the_store_of_a_batch(schema, rows, content, seed, end):
    """As of any window that is the allowed lateness ago: what the stream has written by then is what a batch writes."""
    tables = _tables(log(*rows), *content)
    if schema is CHAT_SCHEMA:
        tables = {name: tables[name] for name in ("events", "impressions")}
    as_of_ms = NOON_MS + end * WINDOW_MS
    earlier = {name: take(rows, rows["timestamp_ms"] < as_of_ms) for name, rows in tables.items()}
    stream = _replay(earlier, FastWindow(), schema, seed, NOON_MS, as_of_ms + LATENESS_MS, 1)
    now_ms = as_of_ms + LATENESS_MS
    batch = LocalStages(schema, FastWindow()).step({name: [rows] for name, rows in earlier.items()}, now_ms)
    for key in schema.stored:
        table = stored_table(key)
        written: dict[tuple, list] = {}
        # Of rooms each window writes all that are live, of the others what changed.
        for outputs in stream[-1:] if key == ("live_id",) else stream:
            written |= _features(schema, key, outputs[table], now_ms)
        assert written == _features(schema, key, batch[table], now_ms)


@settings(max_examples=25, deadline=None, phases=NO_SHRINK)
@given(rows=event_rows(), content=content(), second=st.integers(0, 1200))
def test_nothing_from_the_window_of_an_impression_on_changes_its_features(rows, content, second):
    """Of events, segments and products: only `context` knows of the time since the window began."""
    shown = log((EventKind.EXPOSURE, second, 0, 0, 0, 1))
    as_of_ms = (NOON_MS + second * 1000) // WINDOW_MS * WINDOW_MS
    tables = _tables(log(*rows), *content) | {"impressions": {name: shown[name] for name in IMPRESSION_COLUMNS}}
    past = {name: take(rows, rows["timestamp_ms"] < as_of_ms) for name, rows in tables.items()}
    past["impressions"] = tables["impressions"]
    found = [
        LocalStages(SCHEMA, FastWindow()).step({name: [rows] for name, rows in some.items()}, NOON_MS + 3_600_000)
        for some in (past, tables)
    ]
    for feature in SCHEMA.inputs:
        without, with_future = (outputs["examples"][feature.name] for outputs in found)
        np.testing.assert_array_equal(without, with_future, err_msg=feature.name)


def test_what_comes_too_late_is_handed_back():
    events = log((EventKind.LIKE, 10, 1, 0, 0, 1), (EventKind.LIKE, 50, 1, 0, 0, 1))
    stages = LocalStages(LIVE_SCHEMA, FastWindow(), LATENESS_MS)
    stages.step({}, NOON_MS + 4 * WINDOW_MS)
    outputs = stages.step({"events": [events]}, NOON_MS + 5 * WINDOW_MS)
    assert outputs["late_events"]["timestamp_ms"].tolist() == [NOON_MS + 10_000, NOON_MS + 50_000]
    assert outputs["stored_user_id"]["user_id"].tolist() == []
    on_time = log((EventKind.LIKE, 90, 1, 0, 0, 1))  # exactly the allowed lateness before the last step's window
    outputs = stages.step({"events": [on_time]}, NOON_MS + 6 * WINDOW_MS)
    assert "late_events" not in outputs and outputs["stored_user_id"]["user_id"].tolist() == [1]
