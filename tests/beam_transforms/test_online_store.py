"""The online store, in a folder and in a real Redis server."""

import contextlib
import os
import signal

import numpy as np
import pytest

from beam_transforms.context import context_features
from beam_transforms.online_store import open_online_store
from beam_transforms.record_layout import layouts
from beam_transforms.schema import MEMORY_MS, PADDING_ID, WINDOW_MS
from beam_transforms.stored_history import with_ages
from beam_transforms.write_result import WriteResult
from tests.beam_transforms.stored_tables import (
    BEGIN_MS,
    CHILD,
    NEXT_MS,
    ROOMS,
    SCHEMAS,
    SMALL_SCHEMA,
    WIDE_SCHEMA,
    author_of,
    client_of,
    content,
    fill,
    run_python,
    table,
    tables,
)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_a_request_gets_what_was_written(location, schema):
    written = fill(location, schema=schema)
    asked = [13, 10, 13]
    with open_online_store(location, expected=schema) as store:
        assert (store.as_of_ms, store.live_ids.tolist(), store.schema) == (BEGIN_MS, ROOMS.tolist(), schema)
        assert store.tasks == schema.task_names
        rooms, inputs = store.request(2, asked)
        later = store.request(2, asked, now_ms=BEGIN_MS + 3_600_000)[1]
    assert rooms.tolist() == asked and list(inputs) == [feature.name for feature in schema.inputs]
    opened_ms = written[("live_id",)][0]["opened_ms"][[3, 0, 3]]
    for found, now_ms in ((inputs, BEGIN_MS), (later, BEGIN_MS + 3_600_000)):
        np.testing.assert_array_equal(found["context"], context_features(opened_ms, np.full(3, now_ms)))
    columns = {"user_id": [2] * 3, "live_id": asked, "author_id": author_of(asked)}
    for key, (stored,) in written.items():
        place = {ids: row for row, ids in enumerate(zip(*(stored[name].tolist() for name in key), strict=True))}
        rows = [place[tuple(map(int, ids))] for ids in zip(*(columns[name] for name in key), strict=True)]
        for feature in schema.stored[key]:
            if feature.name not in inputs:
                continue
            expected = stored[feature.name][rows]
            for history in schema.histories:
                if history.feature_name == feature.name:
                    record = {name: stored[name][rows] for name in (feature.name, history.last_ms_name)}
                    expected = with_ages(history, record, BEGIN_MS)
            np.testing.assert_array_equal(inputs[feature.name], expected, err_msg=feature.name)
            assert inputs[feature.name].dtype == expected.dtype


def test_who_was_never_seen_has_an_empty_history(location):
    fill(location)
    with open_online_store(location) as store:
        rooms, inputs = store.request(999)
    assert rooms.tolist() == ROOMS.tolist()
    for history in SMALL_SCHEMA.histories:
        if "user_id" in history.key:
            assert (inputs[history.feature_name] == history.empty).all()
    assert (inputs["entered_authors"] == PADDING_ID).all() and (inputs["user_id"] == 999).all()


def test_no_room_and_a_room_that_is_not_live(location):
    fill(location)
    with open_online_store(location) as store:
        rooms, inputs = store.request(1, [])
        assert len(rooms) == 0
        assert {name: value.shape for name, value in inputs.items()} == {
            feature.name: (0, *feature.shape) for feature in SMALL_SCHEMA.inputs
        }
        with pytest.raises(ValueError, match=r"no features stored for \{'live_id': 99\}: the room isn't live"):
            store.request(1, [10, 99])


def test_a_reader_that_is_open_finds_what_is_new(location):
    """A room that went live, and a label that was set, after its last request."""
    fill(location)
    with open_online_store(location, readonly=False) as writer, open_online_store(location) as reader:
        assert reader.rank_request(1).version is None
        rooms = np.array([*ROOMS, 77])
        writer.write(SMALL_SCHEMA, NEXT_MS, tables(SMALL_SCHEMA, [77], [], NEXT_MS, seed=0), rooms)
        assert reader.request(1, [77])[0].tolist() == [77]
        writer.set_served({"stable": 1}, {1: 0})
        assert reader.rank_request(1).version == 1
        writer.set_served({"canary": 2}, {2: 0})
        assert reader.rank_request(1, label="canary").version == 2
        with pytest.raises(ValueError, match="the room isn't live"):
            reader.request(1, [78])


def test_a_window_changes_its_records_and_leaves_the_others(location):
    first = fill(location)
    with open_online_store(location, readonly=False) as writer, open_online_store(location) as reader:
        changed = {
            ("live_id",): [table(SMALL_SCHEMA, ("live_id",), ([12, 70],), NEXT_MS, value=7)],
            ("user_id",): [table(SMALL_SCHEMA, ("user_id",), ([1],), NEXT_MS, value=7)],
        }
        assert reader.as_of_ms == BEGIN_MS
        result = writer.write(SMALL_SCHEMA, NEXT_MS, changed, np.array([70, 11, 12]))
        assert not result.skipped and result.records == 3
        assert (reader.as_of_ms, reader.live_ids.tolist()) == (NEXT_MS, [11, 12, 70])
        _, inputs = reader.request(1)
        assert (inputs["statistic_sequence"][1:] == 7).all() and (inputs["entered_authors"] == 7).all()
        np.testing.assert_array_equal(inputs["statistic_sequence"][0], first[("live_id",)][0]["statistic_sequence"][1])
        assert inputs["author_id"].tolist() == author_of([11, 12, 70]).tolist()
        age = list(SMALL_SCHEMA.histories[1].columns).index("like_age_s")
        assert inputs["author_counts"][0, age] == np.float32(30.001)  # time went on without a write
        # A room that was written while it wasn't live is found when it is.
        writer.write(SMALL_SCHEMA, NEXT_MS + WINDOW_MS, {}, np.array([10, 12]))
        assert reader.request(1)[1]["author_id"].tolist() == author_of([10, 12]).tolist()
        with pytest.raises(ValueError, match=r"1 live rooms have no record in the store, e.g. \[500\]"):
            writer.write(SMALL_SCHEMA, NEXT_MS + 2 * WINDOW_MS, {}, np.array([10, 500]))
        assert reader.as_of_ms == NEXT_MS + WINDOW_MS


def test_replacing_leaves_nothing_of_before(location):
    fill(location, schema=WIDE_SCHEMA)
    fill(location, NEXT_MS, rooms=ROOMS[:2])
    again = content(location)
    with open_online_store(location) as store:
        assert store.live_ids.tolist() == ROOMS[:2].tolist() and store.schema == SMALL_SCHEMA
    versions = {layout.version for layout in layouts(WIDE_SCHEMA).values()}
    assert not [key for key in again if any(version in key for version in versions)]
    assert len(again) - len([key for key in again if key.split(b":")[-1] in (b"stamp", b"head")]) >= 2 + 3
    with pytest.raises(ValueError, match="remove the store first"):
        fill(location, BEGIN_MS)
    assert content(location) == again


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 50))])
def test_a_crash_and_a_replay_leave_what_a_run_without_crash_leaves(location, tmp_path, seed):
    """The pipeline dies at random points, also within a write, and goes on from a random earlier checkpoint."""
    generator = np.random.default_rng(seed)
    windows = []
    for number in range(12):
        as_of_ms = BEGIN_MS + number * WINDOW_MS * int(generator.choice([1, 2000]))
        as_of_ms = max([as_of_ms, *(w[0] + WINDOW_MS for w in windows[-1:])])
        live = np.unique(generator.integers(0, 8, 5)) + 100 * number
        users = np.unique(generator.integers(0, 50, 3))
        windows.append((as_of_ms, tables(SMALL_SCHEMA, live, users, as_of_ms, seed=number), live))

    class CrashError(Exception):
        pass

    def dying(batches):
        yield from batches
        raise CrashError

    plain = str(tmp_path / "plain") if "://" not in location else location.replace("=test", "=plain")
    with open_online_store(plain, readonly=False) as store:
        for as_of_ms, changed, live in windows:
            store.write(SMALL_SCHEMA, as_of_ms, changed, live)
    place, skipped, crashes = 0, 0, 0
    while place < len(windows):
        with open_online_store(location, readonly=False) as store, contextlib.suppress(CrashError):
            while place < len(windows):
                as_of_ms, changed, live = windows[place]
                if crashes < 6 and (generator.random() < 0.3 or (place == len(windows) - 1 and not crashes)):
                    crashes += 1
                    last = list(changed)[int(generator.integers(len(changed)))]
                    store.write(SMALL_SCHEMA, as_of_ms, {**changed, last: dying(changed[last])}, live)
                    assert as_of_ms < store.as_of_ms  # else it would have died
                    skipped += 1
                skipped += store.write(SMALL_SCHEMA, as_of_ms, changed, live).skipped
                place += 1
        if place < len(windows):
            place = int(generator.integers(0, place + 1))
    expected, found = content(plain), content(location)
    if "://" in location:
        found = {key: value for key, value in found.items() if key.startswith(b"test:")}
        expected = {b"test" + key[5:]: value for key, value in expected.items() if key.startswith(b"plain:")}
    assert found == expected and crashes
    assert len(found) > 60 or "://" not in location  # in the folder what expired is gone


def test_the_replay_of_an_earlier_window_says_so(location):
    fill(location, NEXT_MS)
    before = content(location)
    with open_online_store(location, readonly=False) as store:
        older = tables(SMALL_SCHEMA, [99], [5], BEGIN_MS, seed=1)
        assert store.write(SMALL_SCHEMA, BEGIN_MS, older, np.array([99])) == WriteResult(skipped=True)
    assert content(location) == before


def test_a_writer_that_is_killed_in_the_middle_leaves_the_old_content(location):
    fill(location, value=1)
    child = run_python(
        CHILD
        + f"""
def dying(batches):
    yield from batches
    os.kill(os.getpid(), signal.SIGKILL)

filled = tables(SMALL_SCHEMA, R, U, {NEXT_MS}, value=2)
filled[("user_id", "author_id")] = dying(filled[("user_id", "author_id")])
open_online_store({location!r}, readonly=False).write(SMALL_SCHEMA, {NEXT_MS}, filled, R, replace=True)
"""
    )
    assert child.wait(60) == -signal.SIGKILL
    child.stdout.close()
    with open_online_store(location) as store:
        _, inputs = store.request(1)
        assert store.as_of_ms == BEGIN_MS
        assert {float(inputs[name].min()) for name in ("statistic_sequence", "entered_authors")} == {1}
    if "://" in location:  # its lease runs out
        client_of(location).pexpire("test:writer", 50)
    fill(location, NEXT_MS, value=2)
    with open_online_store(location) as store:
        assert (store.as_of_ms, store.request(1)[1]["statistic_sequence"].min()) == (NEXT_MS, 2)
    assert len([key for key in content(location) if b":r:" in key or key[:1] == b"\x01"]) == 6 + 3 + 3 + 9 + 18


def test_a_reader_while_a_writer_writes(location):
    """Every feature of window n has the value n. A folder's reader sees one window, Redis's whole records."""
    fill(location, value=0)
    child = run_python(
        CHILD
        + f"""
with open_online_store({location!r}, readonly=False) as store:
    for number in range(1, 25):
        as_of_ms = {BEGIN_MS} + number * {WINDOW_MS}
        store.write(SMALL_SCHEMA, as_of_ms, tables(SMALL_SCHEMA, R, U, as_of_ms, value=number), R)
"""
    )
    seen, newest = set(), 0
    with open_online_store(location) as store:
        while child.poll() is None or newest < 24:
            rooms, inputs = store.request(1)
            newest = (store.as_of_ms - BEGIN_MS) // WINDOW_MS
            sequences = inputs["statistic_sequence"].reshape(len(rooms), -1)
            assert (sequences == sequences[:, :1]).all()
            numbers = {*sequences[:, 0].tolist(), *inputs["entered_authors"].ravel().tolist()}
            numbers |= set(inputs["user_author_counts"][:, 0].tolist())
            assert len(numbers) <= (2 if "://" in location else 1) and max(numbers) - min(numbers) <= 1
            assert max(numbers) >= max(seen, default=0)
            seen |= numbers
    child.stdout.close()
    assert child.returncode == 0 and len(seen) > 2


def test_two_writers_take_turns(location):
    fill(location, value=0)
    children = [
        run_python(
            CHILD
            + f"""
with open_online_store({location!r}, readonly=False) as store:
    skipped = 0
    for number in range(1, 13):
        as_of_ms = {BEGIN_MS} + number * {WINDOW_MS}
        filled = tables(SMALL_SCHEMA, R, U, as_of_ms, value=number)
        skipped += store.write(SMALL_SCHEMA, as_of_ms, filled, R).skipped
    print(skipped)
"""
        )
        for _ in range(2)
    ]
    assert [child.communicate(timeout=60)[0].strip().isdigit() for child in children] == [True, True]
    with open_online_store(location) as store:
        _, inputs = store.request(1)
        assert store.as_of_ms == BEGIN_MS + 12 * WINDOW_MS
        assert set(inputs["statistic_sequence"].ravel().tolist()) == {12}


def test_a_record_beyond_memory_stands_for_nothing(location):
    """A record that wasn't swept yet: entered_authors, too, is that of a user who was never seen."""
    fill(location)
    with open_online_store(location, readonly=False) as store:
        store.write(SMALL_SCHEMA, BEGIN_MS + MEMORY_MS - 1, {}, ROOMS)
        assert (store.request(1)[1]["entered_authors"] >= 0).all()
        store.write(SMALL_SCHEMA, BEGIN_MS + MEMORY_MS, {}, ROOMS)  # the newest entry is a millisecond before BEGIN_MS
        assert (store.request(1)[1]["entered_authors"] == PADDING_ID).all()
        store.write(SMALL_SCHEMA, BEGIN_MS + MEMORY_MS + WINDOW_MS, {}, ROOMS)
        _, inputs = store.request(1)
        assert (inputs["entered_authors"] == PADDING_ID).all()
        assert (inputs["user_room_counts"] == SMALL_SCHEMA.histories[3].empty).all()
        assert store.live_ids.tolist() == ROOMS.tolist() and inputs["author_id"].tolist() == author_of(ROOMS).tolist()


def test_the_store_imports_only_what_it_needs(tmp_path):
    code = (
        "import sys; from beam_transforms.online_store import open_online_store\n"
        f"try: open_online_store({str(tmp_path / 'none')!r})\n"
        "except ValueError: pass\n"
        "print(sorted({'tensorflow', 'apache_beam', 'pyarrow', 'redis', 'lmdb'} & set(sys.modules)))"
    )
    child = run_python(code, env=os.environ.copy())
    assert child.communicate(timeout=60)[0].strip() == "['lmdb']"
