"""Foresight vectors and what is served, in a folder and in a real Redis server."""

import os
import signal
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from beam_transforms import room_records
from beam_transforms.online_store import open_online_store
from beam_transforms.schema import WINDOW_MS
from beam_transforms.served import Served
from tests.beam_transforms.stored_tables import (
    BEGIN_MS,
    CHILD,
    NEXT_MS,
    ROOMS,
    SCHEMAS,
    SMALL_SCHEMA,
    USERS,
    client_of,
    content,
    fill,
    run_python,
    table,
    tables,
)


def _vectors(rooms, value, size=4):
    return np.full((len(rooms), size), value, dtype=np.float32)


def _serve(store, version, rooms=ROOMS, size=4, as_of_ms=BEGIN_MS, label="stable"):
    store.write_foresight(version, rooms, _vectors(rooms, version, size), as_of_ms)
    store.set_served({label: version}, {version: size})


@pytest.fixture
def store(location):
    fill(location)
    with open_online_store(location, readonly=False) as store:
        yield store


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_a_rank_request_has_features_and_vectors(location, schema):
    fill(location, schema=schema)
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with open_online_store(location, readonly=False) as store, open_online_store(location) as reader:
        store.write_foresight(7, ROOMS[:5], vectors, BEGIN_MS)
        store.write_foresight(9, ROOMS, _vectors(ROOMS, 9, 2), BEGIN_MS - WINDOW_MS)
        store.set_served({"stable": 7, "canary": 9}, {7: 3, 9: 2})
        asked = [15, 13, 10, 13]
        found = reader.rank_request(2, asked, now_ms=BEGIN_MS + 5)
        rooms, inputs = reader.request(2, asked, now_ms=BEGIN_MS + 5)
        canary = reader.rank_request(2, label="canary")
    assert (found.version, found.live_ids.tolist(), found.live_ids.dtype) == (7, asked, np.int64)
    assert found.has_foresight.tolist() == [False, True, True, True]
    assert found.foresight_as_of_ms.tolist() == [-1, *[BEGIN_MS] * 3]
    assert found.foresight.dtype == np.float32 and found.foresight.shape == (4, 3)
    np.testing.assert_array_equal(found.foresight[1:], vectors[[3, 0, 3]])
    assert rooms.tolist() == asked and list(found.inputs) == list(inputs)
    for name, values in inputs.items():
        np.testing.assert_array_equal(found.inputs[name], values)
    assert (canary.version, canary.foresight.shape) == (9, (len(ROOMS), 2)) and (canary.foresight == 9).all()
    assert canary.has_foresight.all() and set(canary.foresight_as_of_ms.tolist()) == {BEGIN_MS - WINDOW_MS}


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_sequence_names_are_the_inputs_that_only_forecasters_read(tmp_path, schema):
    fill(tmp_path, schema=schema)
    with open_online_store(tmp_path) as store:
        names = store.sequence_names
    rest = [feature.name for feature in schema.inputs if feature.name not in names]
    assert len(names) == (6 if schema.name == "wide" else 2) and len(names) + len(rest) == len(schema.inputs)
    assert rest == [
        *("user_id", "author_id", "entered_authors", "context"),
        *(history.feature_name for history in schema.histories),
    ]


def test_without_anything_served_there_is_no_version(store):
    assert store.served == Served() and store.foresight_versions == ()
    store.write_foresight(3, ROOMS, _vectors(ROOMS, 3), BEGIN_MS)
    for label in ("stable", "canary"):
        found = store.rank_request(1, label=label)
        assert found.version is None and not found.has_foresight.any()
        assert found.foresight.shape == (len(ROOMS), 0) and set(found.foresight_as_of_ms.tolist()) == {-1}
    assert store.foresight_versions == (3,)


def test_a_model_without_vectors_is_served(store):
    store.set_served({"stable": 4}, {4: 0})
    found = store.rank_request(1)
    assert (found.version, found.foresight.shape, found.has_foresight.any()) == (4, (len(ROOMS), 0), False)
    assert store.rank_request(1, []).live_ids.shape == (0,)


def test_an_unknown_label_is_named_with_those_there_are(store):
    store.set_served({"stable": 4, "canary": 5}, {4: 0, 5: 2})
    with pytest.raises(ValueError, match=r"under the label 'stale'; the labels are \{'canary': 5, 'stable': 4\}"):
        store.rank_request(1, label="stale")


def test_what_is_served_is_replaced_as_a_whole(store, location):
    store.set_served({"stable": 1, "canary": 2}, {1: 3, 2: 0, 9: 8})
    with open_online_store(location) as reader:
        assert reader.served == Served({"stable": 1, "canary": 2}, {1: 3, 2: 0, 9: 8})
        store.set_served({"stable": 2}, {2: 0})
        assert reader.served == Served({"stable": 2}, {2: 0})
        store.set_served({}, {})
        assert reader.served == Served()


@pytest.mark.parametrize(
    ("labels", "sizes", "message"),
    [
        ({"stable": 1}, {2: 3}, r"labels \{'stable': 1\} are of versions without a foresight size.*\{2: 3\}"),
        ({"": 1}, {1: 3}, "labels must not be empty"),
        ({"stable": -1}, {-1: 3}, "not negative"),
        ({"stable": 1}, {1: -3}, "not negative"),
    ],
)
def test_what_can_not_be_served_is_refused(store, labels, sizes, message):
    with pytest.raises(ValueError, match=message):
        store.set_served(labels, sizes)
    assert store.served == Served()


def test_another_width_is_an_error_that_names_it(store):
    store.set_served({"stable": 4}, {4: 5})
    with pytest.raises(ValueError, match="version 4 is served with foresight vectors of width 5, got width 3"):
        store.write_foresight(4, ROOMS, _vectors(ROOMS, 1, 3), BEGIN_MS)
    store.write_foresight(6, ROOMS[:1], _vectors(ROOMS[:1], 1, 3), BEGIN_MS)
    store.set_served({"stable": 6}, {6: 5})
    with pytest.raises(ValueError, match=r"vector of room 10 under version 6 .* width 3, but .* served with width 5"):
        store.rank_request(1)
    assert store.rank_request(1, ROOMS[1:]).version == 6


@pytest.mark.parametrize("version", [-1, 2**64])
def test_a_version_that_is_none_is_refused(store, version):
    with pytest.raises(ValueError, match=rf"a version must be from 0 to 2\^63 - 1, got {version}"):
        store.write_foresight(version, ROOMS, _vectors(ROOMS, 1, 3), BEGIN_MS)


@pytest.mark.parametrize("shape", [(6,), (5, 2), (6, 2, 2)])
def test_vectors_of_another_shape_are_refused(store, shape):
    with pytest.raises(ValueError, match=r"must have the shape \(rooms, F\), got"):
        store.write_foresight(1, ROOMS, np.zeros(shape), BEGIN_MS)


def test_a_store_that_is_opened_for_reading_is_not_written(location):
    fill(location)
    with open_online_store(location) as store:
        for write in (
            lambda: store.write_foresight(1, ROOMS, _vectors(ROOMS, 1), BEGIN_MS),
            lambda: store.forget_foresight(1),
            lambda: store.set_served({"stable": 1}, {1: 0}),
        ):
            with pytest.raises(ValueError, match="was opened for reading"):
                write()


def test_an_empty_store_takes_no_vectors(location):
    with open_online_store(location, readonly=False) as store:
        with pytest.raises(ValueError, match="the online store is empty"):
            store.write_foresight(1, ROOMS, _vectors(ROOMS, 1), BEGIN_MS)
        store.set_served({"stable": 1}, {1: 0})
        assert store.served.labels == {"stable": 1}


def test_forgetting_a_version_leaves_the_others(store):
    for version in (1, 2, 300):
        store.write_foresight(version, ROOMS, _vectors(ROOMS, version), BEGIN_MS)
    store.set_served({"stable": 2}, {2: 4})
    assert store.foresight_versions == (1, 2, 300)
    assert (store.forget_foresight(1), store.forget_foresight(1), store.forget_foresight(300)) == (6, 0, 6)
    assert store.foresight_versions == (2,) and (store.rank_request(1).foresight == 2).all()
    with pytest.raises(ValueError, match=r"version 2 is served under \['stable'\]; move the labels first"):
        store.forget_foresight(2)
    store.set_served({}, {})
    assert store.forget_foresight(2) == 6 and store.foresight_versions == ()


def test_windows_and_vectors_leave_each_other_alone(location):
    fill(location)
    before = _plain_content(location)
    with open_online_store(location, readonly=False) as store:
        _serve(store, 3)
    after = _plain_content(location)
    assert {key: after[key] for key in before} == before and len(after) > len(before)
    with open_online_store(location, readonly=False) as store:
        _window_and_vectors(store)


def _plain_content(location):
    """Everything in the store but vectors."""
    if "://" not in location:
        return content(location)
    client = client_of(location)
    return {key: client.get(key) for key in client.keys("*") if client.type(key) == b"string"}


def _window_and_vectors(store):
    changed = {("live_id",): [table(SMALL_SCHEMA, ("live_id",), ([12, 70],), NEXT_MS, value=7)]}
    store.write(SMALL_SCHEMA, NEXT_MS, changed, np.array([70, 11, 12]))
    found = store.rank_request(1)
    assert found.has_foresight.tolist() == [True, True, False]  # 11, 12, 70
    assert found.foresight_as_of_ms.tolist() == [BEGIN_MS, BEGIN_MS, -1]
    assert (found.foresight[:2] == 3).all() and (found.inputs["statistic_sequence"][1:] == 7).all()


def test_replacing_drops_vectors_and_keeps_what_is_served(store, location):
    _serve(store, 3)
    fill(location, NEXT_MS)
    assert store.served == Served({"stable": 3}, {3: 4}) and store.foresight_versions == ()
    found = store.rank_request(1)
    assert found.version == 3 and not found.has_foresight.any()
    _serve(store, 3, as_of_ms=NEXT_MS)
    assert store.rank_request(1).has_foresight.all()


def test_vectors_of_rooms_of_a_store_that_was_replaced_since_are_not_written(store, location):
    """Not even if it was replaced as of the same time."""
    rooms = store.rooms()
    store.write(SMALL_SCHEMA, NEXT_MS, {}, ROOMS)  # a window replaces nothing
    store.write_foresight(3, rooms.live_ids, _vectors(ROOMS, 3), rooms.as_of_ms, rooms.generation)
    assert store.foresight_versions == (3,)
    fill(location, NEXT_MS)
    store.write_foresight(3, rooms.live_ids, _vectors(ROOMS, 3), rooms.as_of_ms, rooms.generation)
    assert store.foresight_versions == ()
    rooms = store.rooms()
    store.write_foresight(3, rooms.live_ids, _vectors(ROOMS, 3), rooms.as_of_ms, rooms.generation)
    assert store.foresight_versions == (3,)


@pytest.mark.parametrize("at_once", [2, 2000])
def test_rooms_are_what_requests_are_made_of(location, monkeypatch, at_once):
    monkeypatch.setattr(room_records, "_AT_ONCE", at_once)
    for schema in SCHEMAS:
        fill(location, NEXT_MS, schema=schema)
        with open_online_store(location) as store:
            rooms, (live_ids, inputs) = store.rooms(), store.request(1)
            assert rooms.live_ids.tolist() == live_ids.tolist() == ROOMS.tolist() and rooms.as_of_ms == NEXT_MS
            assert rooms.written_ms.tolist() == [NEXT_MS] * len(ROOMS)
            assert set(rooms.columns) == {"author_id", *store.sequence_names}
            for name, values in rooms.columns.items():
                np.testing.assert_array_equal(values, inputs[name])


def test_only_rooms_that_changed(store):
    _serve(store, 3, ROOMS[:5])
    changed = tables(SMALL_SCHEMA, [10, 15, 99], [], NEXT_MS, seed=3)
    store.write(SMALL_SCHEMA, NEXT_MS, changed, np.array([*ROOMS, 99]))
    assert store.rooms(BEGIN_MS).live_ids.tolist() == [10, 15, 99]
    assert store.rooms(BEGIN_MS).written_ms.tolist() == [NEXT_MS] * 3
    assert len(store.rooms(BEGIN_MS - 1).live_ids) == 7
    nothing = store.rooms(NEXT_MS)
    assert nothing.live_ids.shape == (0,) and nothing.columns["statistic_sequence"].shape == (0, 4, 2)
    assert store.rooms(stale_under=3).live_ids.tolist() == [10, 15, 99]
    assert store.rooms(stale_under=4).live_ids.tolist() == [*ROOMS, 99]
    store.write_foresight(3, np.array([10, 99]), _vectors([0, 0], 3), NEXT_MS)
    assert store.rooms(stale_under=3).live_ids.tolist() == [15]


def test_rooms_of_a_store_that_is_replaced_meanwhile_are_of_one_filling(store, location, monkeypatch):
    monkeypatch.setattr(room_records, "_AT_ONCE", 2)
    read, calls = store._read, []

    def replacing(wanted):
        calls.append(1)
        if len(calls) == 3:
            fill(location, NEXT_MS, rooms=ROOMS + 50, value=5)
        return read(wanted)

    monkeypatch.setattr(store, "_read", replacing)
    rooms = store.rooms()
    assert rooms.live_ids.tolist() == (ROOMS + 50).tolist() and rooms.as_of_ms == NEXT_MS
    assert (rooms.columns["statistic_sequence"] == 5).all()


_OPERATIONS = st.one_of(
    st.tuples(st.just("vectors"), st.integers(1, 3), st.sets(st.integers(10, 15))),
    st.tuples(st.just("serve"), st.dictionaries(st.sampled_from(["stable", "canary"]), st.integers(1, 3))),
    st.tuples(st.just("forget"), st.integers(1, 3)),
    st.tuples(st.just("window"), st.sets(st.integers(10, 15), min_size=1)),
    st.tuples(st.just("replace"), st.sets(st.integers(10, 15), min_size=1)),
)


@settings(
    max_examples=25,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations=st.lists(_OPERATIONS, max_size=12))
def test_whatever_is_done_a_request_has_what_was_written_last(store, location, operations):
    """Against a model of plain dictionaries. The vectors of version v written in step s have the value 100 s + v."""
    with open_online_store(location) as reader:
        now = reader.as_of_ms + WINDOW_MS
        fill(location, now)
        store.set_served({}, {})
        kept, labels, live = {}, {}, ROOMS.tolist()
        for step, (name, *arguments) in enumerate(operations):
            now += WINDOW_MS
            if name == "vectors":
                version, rooms = arguments
                store.write_foresight(version, sorted(rooms), _vectors(rooms, 100 * step + version, version), now)
                kept |= {(version, room): (100 * step + version, now) for room in rooms}
            elif name == "serve":
                labels = arguments[0]
                store.set_served(labels, {version: version for version in labels.values()})
            elif name == "forget" and arguments[0] not in labels.values():
                count = len([key for key in kept if key[0] == arguments[0]])
                assert store.forget_foresight(arguments[0]) == count
                kept = {key: value for key, value in kept.items() if key[0] != arguments[0]}
            elif name in ("window", "replace"):
                live, replace = sorted(arguments[0]), name == "replace"
                filled = tables(SMALL_SCHEMA, live, USERS, now, value=step)
                store.write(SMALL_SCHEMA, now, filled, np.array(live), replace=replace)
                kept = {} if replace else kept
            assert store.foresight_versions == tuple(sorted({version for version, _ in kept}))
            for label in labels or ["stable"]:
                found = reader.rank_request(1, label=label)
                assert (found.version, found.live_ids.tolist()) == (labels.get(label), live)
                expected = [kept.get((found.version, room), (None, -1)) for room in live]
                assert found.has_foresight.tolist() == [value is not None for value, _ in expected]
                assert found.foresight_as_of_ms.tolist() == [time for _, time in expected]
                assert found.foresight.shape == (len(live), found.version or 0)
                for row, (value, _) in enumerate(expected):
                    assert value is None or set(found.foresight[row].tolist()) == {value}
        for version in (1, 2, 3):
            store.set_served({}, {})
            store.forget_foresight(version)


def _flips(location, count):
    """A process that promotes one version after the other and forgets the one before at once."""
    return run_python(
        CHILD
        + f"""
import time
with open_online_store({location!r}, readonly=False) as store:
    for version in range(2, {count} + 2):
        size = 1 + version % 5
        store.write_foresight(version, R, np.full((len(R), size), version), {BEGIN_MS} + version)
        store.set_served({{"stable": version}}, {{version: size}})
        store.forget_foresight(version - 1)
        time.sleep(0.005)  # a reader of Redis gives up after ten changes during one request
"""
    )


@pytest.mark.parametrize("flips", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_request_never_mixes_versions_while_another_process_moves_on(location, flips):
    """Each vector is filled with its version, and each version has a width of its own."""
    fill(location)
    with open_online_store(location, readonly=False) as store:
        _serve(store, 1, size=2)
    child = _flips(location, flips)
    seen: set[int] = set()
    errors: list[BaseException] = []

    def ask(reader):
        try:
            while child.poll() is None:
                found = reader.rank_request(1)
                assert found.has_foresight.all() and found.foresight.shape == (len(ROOMS), 1 + found.version % 5)
                assert set(found.foresight.ravel().tolist()) == {found.version}
                assert found.version == 1 or set(found.foresight_as_of_ms.tolist()) == {BEGIN_MS + found.version}
                seen.add(found.version)
        except BaseException as error:
            errors.append(error)

    with open_online_store(location) as first, open_online_store(location) as second:
        threads = [threading.Thread(target=ask, args=(reader,)) for reader in (first, first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors
        assert first.rank_request(1).version == flips + 1
    child.stdout.close()
    assert child.returncode == 0 and len(seen) > 10
    with open_online_store(location) as store:
        assert store.foresight_versions == (flips + 1,)


def test_windows_are_written_by_another_process_meanwhile(location):
    """Neither writer loses what it wrote, nor undoes what the other did."""
    fill(location, value=0)
    child = run_python(
        CHILD
        + f"""
with open_online_store({location!r}, readonly=False) as store:
    for number in range(1, 31):
        as_of_ms = {BEGIN_MS} + number * {WINDOW_MS}
        store.write(SMALL_SCHEMA, as_of_ms, tables(SMALL_SCHEMA, R, U, as_of_ms, value=number), R)
"""
    )
    versions = 1
    with open_online_store(location, readonly=False) as store:
        _serve(store, 1)
        while child.poll() is None:
            versions += 1
            _serve(store, versions, as_of_ms=store.as_of_ms)
            store.forget_foresight(versions - 1)
            found = store.rank_request(1)
            assert found.version == versions and (found.foresight == versions).all() and found.has_foresight.all()
        assert store.as_of_ms == BEGIN_MS + 30 * WINDOW_MS and versions > 3
        assert (store.request(1)[1]["statistic_sequence"] == 30).all()
        assert store.foresight_versions == (versions,)
    child.stdout.close()
    assert child.returncode == 0


def test_two_threads_of_one_process_write(location):
    """The loop writes windows in one and promotes in the other."""
    fill(location, value=0)
    errors = []

    def promote():
        try:
            with open_online_store(location, readonly=False) as store:
                for version in range(1, 31):
                    _serve(store, version)
                    store.forget_foresight(version - 1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=promote)
    with open_online_store(location, readonly=False) as store:
        thread.start()
        for number in range(1, 21):
            as_of_ms = BEGIN_MS + number * WINDOW_MS
            store.write(SMALL_SCHEMA, as_of_ms, tables(SMALL_SCHEMA, ROOMS, USERS, as_of_ms, value=number), ROOMS)
        thread.join()
        found = store.rank_request(1)
    assert not errors and found.version == 30 and (found.foresight == 30).all()
    assert (found.inputs["statistic_sequence"] == 20).all() and found.has_foresight.all()


def test_a_job_that_is_killed_while_it_writes_leaves_the_served_version(location):
    fill(location)
    with open_online_store(location, readonly=False) as store:
        _serve(store, 1)
        child = run_python(
            CHILD
            + f"""
with open_online_store({location!r}, readonly=False) as store:
    store.write_foresight(2, R[:3], np.full((3, 4), 2), {BEGIN_MS})
    os.kill(os.getpid(), signal.SIGKILL)
"""
        )
        assert child.wait(60) == -signal.SIGKILL
        child.stdout.close()
        found = store.rank_request(1)
        assert found.version == 1 and found.has_foresight.all() and (found.foresight == 1).all()
        assert store.foresight_versions == (1, 2)
        _serve(store, 2)
        assert (store.rank_request(1).foresight == 2).all() and store.forget_foresight(1) == len(ROOMS)


@pytest.mark.parametrize("data", [b"", b"no", b"[]", b'{"labels": {"stable": 1}, "foresight_sizes": {}}'])
def test_damaged_words_on_what_is_served_are_an_error(data):
    with pytest.raises(ValueError, match="here: what is said there of the versions that are served can't be read"):
        Served.parse(data, "here")


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.integers(0, 2**63 - 1)), st.integers(0, 10**6))
def test_what_is_served_survives_its_bytes(labels, size):
    served = Served(labels, {version: size + place for place, version in enumerate(labels.values())})
    assert Served.parse(served.data, "here") == served
    assert Served.parse(None, "here") == Served() and os.linesep.encode() not in served.data
