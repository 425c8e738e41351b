"""What a store of features refuses."""

import lmdb
import numpy as np
import pytest

from beam_transforms.columnar import take
from beam_transforms.impressions import IMPRESSION_COLUMNS
from beam_transforms.labels import FastWindow
from beam_transforms.local_stages import LocalStages
from beam_transforms.online_store import open_online_store
from beam_transforms.record_layout import layouts
from beam_transforms.schema import LIVE_SCHEMA, PADDING_ID, EventKind, schema_from_json, schema_to_json
from tests.beam_transforms.event_logs import NOON_MS, log
from tests.beam_transforms.stored_tables import (
    BEGIN_MS,
    NEXT_MS,
    ROOMS,
    SMALL_SCHEMA,
    USERS,
    WIDE_SCHEMA,
    client_of,
    content,
    fill,
    tables,
)


def test_other_features_than_expected_are_named(location):
    fill(location)
    with pytest.raises(ValueError) as caught:
        open_online_store(location, expected=WIDE_SCHEMA)
    for part in (
        "'semantic_ids' under ('live_id',) is missing",
        "'author_counts' under ('author_id',) is float32 (2,)",
    ):
        assert part in str(caught.value)
    with open_online_store(location, readonly=False) as store:
        filled = tables(WIDE_SCHEMA, ROOMS, USERS, NEXT_MS, seed=0)
        with pytest.raises(ValueError, match=r"'product_ids' under .* is missing"):
            store.write(WIDE_SCHEMA, NEXT_MS, filled, ROOMS)
    fill(location, NEXT_MS, schema=WIDE_SCHEMA)
    with pytest.raises(ValueError, match=r"'run_lengths' under .* is unknown"):
        open_online_store(location, expected=SMALL_SCHEMA)


def test_a_reader_that_is_open_notices_other_features(location):
    fill(location)
    with open_online_store(location, expected=SMALL_SCHEMA) as expecting, open_online_store(location) as taking:
        taking.request(1)
        fill(location, NEXT_MS, schema=WIDE_SCHEMA)
        assert "semantic_ids" in taking.request(1)[1]
        with pytest.raises(ValueError, match=r"'semantic_ids' under .* is unknown"):
            expecting.request(1)


def test_wrong_tables_are_named(location):
    filled = tables(SMALL_SCHEMA, ROOMS, USERS, BEGIN_MS, seed=0)
    (rooms,) = filled[("live_id",)]
    wide = {**rooms, "statistic_mask": np.zeros((len(ROOMS), 5))}
    missing = {name: values for name, values in rooms.items() if name != "opened_ms"}
    with open_online_store(location, readonly=False) as store:
        for wrong, message in (
            ({("live_id",): [missing]}, r"lacks the columns \['opened_ms'\]"),
            ({("live_id",): [wide]}, r"'statistic_mask' has shape \(6, 5\), expected 6 rows of shape \(4,\)"),
            ({("gift_id",): [rooms]}, r"tables \[\('gift_id',\)\] aren't in schema 'small'"),
        ):
            with pytest.raises(ValueError, match=message):
                store.write(SMALL_SCHEMA, BEGIN_MS, wrong, ROOMS)
    with pytest.raises(ValueError, match="empty"):
        open_online_store(location)
    fill(location)
    with open_online_store(location) as store, pytest.raises(ValueError, match="opened for reading"):
        store.write(SMALL_SCHEMA, NEXT_MS, filled, ROOMS)


def test_entries_of_another_meaning_give_another_version():
    swapped = SMALL_SCHEMA.metrics[::-1]
    other = layouts(type(SMALL_SCHEMA)(**{**vars(SMALL_SCHEMA), "metrics": swapped}))
    same = {key for key, layout in layouts(SMALL_SCHEMA).items() if layout.version == other[key].version}
    assert same == set(other) - {("live_id",)}


def _overwrite(location, find, value):
    """Writes a value over the first key that contains `find`."""
    (key, *_) = sorted(key for key in content(location) if find in key)
    if "://" in location:
        client_of(location).set(key, value)
    else:
        with lmdb.open(location) as environment, environment.begin(write=True) as transaction:
            transaction.put(key, value)


def test_a_record_of_another_length_is_an_error(location):
    fill(location)
    _overwrite(location, layouts(SMALL_SCHEMA)[("author_id",)].version, b"short")
    with (
        open_online_store(location) as store,
        pytest.raises(ValueError, match=r"has 5 bytes, exp.*author_counts"),
    ):
        store.request(1)


@pytest.mark.parametrize("content", [b"", b"no head", b'{"format": 1}\n', b'{"format": 2, "live_rooms": 0}\n'])
def test_a_damaged_head_is_an_error(location, content):
    fill(location)
    for name, value in ((b"stamp", b"x"), (b"head", content)):
        _overwrite(location, name, value)
    with pytest.raises(ValueError, match="damaged or of another version"):
        open_online_store(location)


@pytest.mark.parametrize("content", [None, b"", b"no store at all" * 1000])
def test_a_folder_without_a_readable_store_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(ValueError, match="online store"):
        open_online_store(tmp_path)


def test_a_foreign_store_is_an_error(tmp_path, redis_location):
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"head", b"{}")
    with pytest.raises(ValueError, match="the online store is empty"):
        open_online_store(tmp_path)
    client_of(redis_location).lpush("test:stamp", "x")
    with pytest.raises(ValueError, match=r"refused a command.*WRONGTYPE"):
        open_online_store(redis_location)
    with pytest.raises(ValueError, match="no such online store"):
        open_online_store("mysql://host/x")


def test_equal_schemas_have_the_same_layouts():
    again = schema_from_json(schema_to_json(SMALL_SCHEMA))
    assert again is not SMALL_SCHEMA and layouts(again) is layouts(SMALL_SCHEMA)
    assert layouts(WIDE_SCHEMA)[("live_id",)].version != layouts(SMALL_SCHEMA)[("live_id",)].version
    with pytest.raises(TypeError):
        layouts(SMALL_SCHEMA)[("live_id",)] = None


@pytest.mark.parametrize(("days", "remembered"), [(29, True), (30, True), (31, False)])
def test_entries_are_forgotten_by_examples_and_store_alike(days, remembered):
    """A user who entered one room, and since then only liked: the record is of day 20, read on another day."""
    day = 86_400
    liked = [(EventKind.LIKE, second, 1, 7, 70, 1) for second in (40, 10 * day, 20 * day)]
    past = log((EventKind.ENTER, 30, 1, 7, 70, 1), *liked)
    shown = log((EventKind.EXPOSURE, days * day + 30, 1, 7, 70, 1))
    impressions = {name: shown[name] for name in IMPRESSION_COLUMNS}
    last_ms = NOON_MS + (days + 1) * day * 1000
    tables = {"events": [past, shown], "impressions": [impressions]}
    (example,) = LocalStages(LIVE_SCHEMA, FastWindow()).step(tables, last_ms)["examples"]["entered_authors"]

    stages, layout, record = LocalStages(LIVE_SCHEMA, FastWindow()), layouts(LIVE_SCHEMA)[("user_id",)], None
    for second in (60, 10 * day + 30, 20 * day + 30):
        as_of_ms = NOON_MS + second * 1000
        new = (past["timestamp_ms"] < as_of_ms) & (past["timestamp_ms"] >= as_of_ms - 60_000)
        rows = stages.step({"events": [take(past, np.flatnonzero(new))]}, as_of_ms)["stored_user_id"]
        (record,) = layout.records(rows, as_of_ms)
    stored = layout.columns([record], NOON_MS + (days * day + 30) * 1000)
    np.testing.assert_array_equal(stored["entered_authors"][0], example)
    assert example.tolist()[-1] == (7 if remembered else PADDING_ID) and set(example.tolist()[:-1]) == {PADDING_ID}
    assert "entered_last_ms" not in stored and stored["user_counts"][0, 0] == 0 and stored["user_counts"].any()
