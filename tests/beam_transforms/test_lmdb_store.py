import contextlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import lmdb
import numpy as np
import pytest

from beam_transforms import lmdb_file, lmdb_store
from beam_transforms.lmdb_store import LmdbStore
from beam_transforms.online_store import SLACK_MS, open_online_store
from beam_transforms.record_layout import layouts
from beam_transforms.schema import ROOM_MEMORY_MS
from tests.beam_transforms.stored_tables import (
    BEGIN_MS,
    CHILD,
    NEXT_MS,
    ROOMS,
    SMALL_SCHEMA,
    USERS,
    fill,
    run_python,
    tables,
)


def test_a_full_folder_keeps_its_content(tmp_path):
    path = tmp_path / "store"
    with LmdbStore(path, readonly=False, map_size=2**19) as store:
        store.write(SMALL_SCHEMA, BEGIN_MS, tables(SMALL_SCHEMA, ROOMS, USERS, BEGIN_MS, seed=0), ROOMS)
        before = store.request(1)[1]
        many = np.arange(20_000)
        with pytest.raises(OSError, match="the online store is full"):
            store.write(SMALL_SCHEMA, NEXT_MS, tables(SMALL_SCHEMA, many, [0], NEXT_MS, seed=0), many)
        assert store.as_of_ms == BEGIN_MS
        for name, values in store.request(1)[1].items():
            np.testing.assert_array_equal(values, before[name])
        store.write(SMALL_SCHEMA, NEXT_MS, {}, ROOMS)  # what is small still fits


def test_a_full_disk_keeps_the_folders_content(tmp_path):
    """The system refuses to let the file grow."""
    child = run_python(
        CHILD
        + f"""
import resource
path = {str(tmp_path / "store")!r}
with open_online_store(path, readonly=False) as store:
    store.write(SMALL_SCHEMA, {BEGIN_MS}, tables(SMALL_SCHEMA, R, U, {BEGIN_MS}, seed=0), R)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    many = np.arange(5000)
    try:
        store.write(SMALL_SCHEMA, {NEXT_MS}, tables(SMALL_SCHEMA, many, U, {NEXT_MS}, seed=0), many)
    except OSError as error:
        print(error)
    print(store.as_of_ms, len(store.request(1)[0]))
"""
    )
    output = child.communicate(timeout=60)[0]
    assert "can't be written" in output and "is the disk full?" in output
    assert output.splitlines()[-1] == f"{BEGIN_MS} 6"


def test_what_expired_leaves_the_folder(tmp_path):
    """Each window has rooms and users of its own. After a memory they are gone, and the file stops growing."""
    with open_online_store(tmp_path, readonly=False) as store:
        sizes, removed = [], 0
        for number in range(40):
            as_of_ms = BEGIN_MS + number * 3_600_000
            filled = tables(SMALL_SCHEMA, ROOMS + 100 * number, USERS + 100 * number, as_of_ms, seed=number)
            result = store.write(SMALL_SCHEMA, as_of_ms, filled, ROOMS[:1] if number else ROOMS)
            removed += result.removed
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
        kept = {key[1:9] for key in _content_of(store) if key[:1] == b"\x01"}
        rooms = [key for key in _content_of(store) if key[1:9] == layouts(SMALL_SCHEMA)[("live_id",)].version]
        # Room 10 is live all the time, silent since the first hour. The others go after memory and slack.
        hours = (ROOM_MEMORY_MS + SLACK_MS) // 3_600_000
        assert len(rooms) == 1 + (hours + 1) * len(ROOMS) and removed == 40 * (6 + 18) - len(rooms) - (hours + 1) * 18
        assert len(kept) == len(SMALL_SCHEMA.stored) and store.request(1)[0].tolist() == [10]


def test_vectors_that_expired_leave_the_folder(tmp_path):
    """Each hour has rooms and a version of its own; version 3 alone is served, room 10 alone stays live."""
    hours = (ROOM_MEMORY_MS + SLACK_MS) // 3_600_000
    with open_online_store(tmp_path, readonly=False) as store:
        store.set_served({"stable": 3}, {3: 2})
        for number in range(30):
            as_of_ms = BEGIN_MS + number * 3_600_000
            rooms = ROOMS + 100 * number
            filled = tables(SMALL_SCHEMA, rooms, USERS, as_of_ms, seed=number)
            store.write(SMALL_SCHEMA, as_of_ms, filled, ROOMS[:1])
            for version in (3, 100 + number):
                store.write_foresight(version, rooms, np.ones((6, 2)), as_of_ms)
        kept = {key[1:] for key in _content_of(store) if key[:1] == b"\x02"}
        rooms = {int.from_bytes(key[8:], "big") for key in kept if key[:8] == (3).to_bytes(8, "big")}
        recent = {int(room) + 100 * number for number in range(29 - hours, 30) for room in ROOMS}
        assert rooms == {10, *recent}
        assert store.foresight_versions == (3, *(100 + number for number in range(29 - hours, 30)))
        assert store.rank_request(1).has_foresight.all()


def _content_of(store):
    with store._file.use() as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def test_a_folder_that_was_removed_and_written_anew_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "_CHECK_S", 0)
    fill(tmp_path / "store", value=3)
    with open_online_store(tmp_path / "store") as store, open_online_store(tmp_path / "store") as other:
        with store._file.use() as environment, environment.begin() as transaction:
            shutil.rmtree(tmp_path / "store")
            with pytest.raises(OSError, match="the online store was removed; write it again"):
                store.request(1)
            fill(tmp_path / "store", NEXT_MS, rooms=ROOMS[:2], value=5)
            for reader in (store, other, store):
                rooms, inputs = reader.request(1)
                assert rooms.tolist() == ROOMS[:2].tolist() and (inputs["statistic_sequence"] == 5).all()
                assert reader.as_of_ms == NEXT_MS
            assert transaction.get(b"\x00stamp")  # who reads the old file still does so
        with pytest.raises(lmdb.Error, match="closed"):
            environment.begin()
    assert not lmdb_file._open
    with pytest.raises(ValueError, match="no online store here"):
        open_online_store(tmp_path / "none")


def test_whether_a_folder_is_still_there_is_looked_at_now_and_then(tmp_path):
    fill(tmp_path / "store")
    with open_online_store(tmp_path / "store") as store:
        shutil.rmtree(tmp_path / "store")
        assert store.as_of_ms == BEGIN_MS
        store._file._checked_s -= 1
        for _ in range(2):
            with pytest.raises(OSError, match="was removed"):
                store.request(1)


def test_too_many_readers_are_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "READERS", 1)
    fill(tmp_path)
    with open_online_store(tmp_path) as store, store._file.use() as environment:
        with environment.begin(), pytest.raises(OSError, match="too many readers"):
            store.request(1)
        assert len(store.request(1)[0]) == len(ROOMS)


@pytest.mark.parametrize(
    ("error", "message"), [(lmdb.MapResizedError, "another process let it grow"), (lmdb.MemoryError, "enough memory")]
)
def test_what_passes_is_no_damage(tmp_path, monkeypatch, error, message):
    def fail(**_):
        raise error

    fill(tmp_path)
    with open_online_store(tmp_path) as store, monkeypatch.context() as patch:
        patch.setattr(store._file, "use", lambda: contextlib.nullcontext(SimpleNamespace(begin=fail)))
        with pytest.raises(OSError, match=message):
            store.request(1)


def test_stores_of_one_folder_in_one_process_share_it_between_threads(tmp_path):
    fill(tmp_path, value=3)
    with open_online_store(tmp_path) as first, open_online_store(tmp_path) as second:
        second.close()
        second.close()
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(first.request, [0, 1, 2] * 20))
        assert all((inputs["statistic_sequence"] == 3).all() for _, inputs in answers)
        assert [int(inputs["user_id"][0]) for _, inputs in answers] == [0, 1, 2] * 20


def test_writing_a_window_again_changes_nothing(tmp_path, monkeypatch):
    """Not even how far the removal of expired records has come."""
    monkeypatch.setattr(lmdb_store, "_SWEPT", 5)
    fill(tmp_path)
    changed = tables(SMALL_SCHEMA, ROOMS[:1], USERS[:1], NEXT_MS, seed=3)
    found = []
    for _ in range(2):
        with open_online_store(tmp_path, readonly=False) as store:
            assert not store.write(SMALL_SCHEMA, NEXT_MS, changed, ROOMS).skipped
            found.append(_content_of(store))
    assert found[0] == found[1] and found[0][b"\x00swept"] != b"\x01"
