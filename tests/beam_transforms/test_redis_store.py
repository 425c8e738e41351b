import socket
import time

import numpy as np
import pytest
from redis.client import Pipeline
from redis.connection import AbstractConnection

from beam_transforms import redis_store, redis_vectors
from beam_transforms.local_redis import HOW_TO_INSTALL, LocalRedis
from beam_transforms.online_store import SLACK_MS, open_online_store
from beam_transforms.record_layout import layouts
from beam_transforms.redis_store import RedisStore
from beam_transforms.schema import MEMORY_MS, ROOM_MEMORY_MS, WINDOW_MS
from beam_transforms.unusable_store_error import UnusableStoreError
from tests.beam_transforms.stored_tables import (
    BEGIN_MS,
    NEXT_MS,
    ROOMS,
    SMALL_SCHEMA,
    USERS,
    client_of,
    content,
    fill,
    tables,
)


def _count_trips(monkeypatch):
    """A list that grows by one with each batch of commands that is sent and answered before the next."""
    trips = []
    send = AbstractConnection.send_packed_command

    def counted(self, command, check_health=True):
        trips.append(1)
        return send(self, command, check_health)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    return trips


def test_a_request_of_300_rooms_is_one_round_trip(redis_location, monkeypatch):
    rooms = np.arange(300)
    fill(redis_location, rooms=rooms)
    with open_online_store(redis_location) as store:
        trips = _count_trips(monkeypatch)
        store.request(1)
        commands = client_of(redis_location).info("commandstats")["cmdstat_mget"]["calls"]
        for _ in range(2):
            trips.clear()
            found, _ = store.request(1)
            assert (len(found), len(trips)) == (300, 1)
        assert client_of(redis_location).info("commandstats")["cmdstat_mget"]["calls"] == commands + 2
        fill(redis_location, NEXT_MS, rooms=rooms[:10])
        trips.clear()
        assert (len(store.request(1)[0]), len(trips)) == (10, 3)  # the head has changed
        trips.clear()
        store.request(2, [1, 2])
        assert len(trips) == 1


def test_a_rank_request_of_300_rooms_is_one_round_trip(redis_location, monkeypatch):
    rooms = np.arange(300)
    fill(redis_location, rooms=rooms)
    with open_online_store(redis_location, readonly=False) as writer, open_online_store(redis_location) as store:
        writer.write_foresight(1, rooms, np.ones((300, 64)), BEGIN_MS)
        writer.set_served({"stable": 1}, {1: 64})
        store.rank_request(1)
        trips = _count_trips(monkeypatch)
        found = store.rank_request(2)
        assert (found.has_foresight.sum(), len(trips)) == (300, 1)
        writer.set_served({"stable": 2}, {2: 8})
        trips.clear()
        assert (store.rank_request(2).version, len(trips)) == (2, 3)  # what is served has changed
        trips.clear()
        assert (store.rank_request(2, [1, 2]).version, len(trips)) == (2, 1)


def test_vectors_expire_in_redis_and_those_of_rooms_that_are_over_go(redis_location, monkeypatch):
    monkeypatch.setattr(redis_vectors, "_SPARE", 3)
    fill(redis_location)
    client = client_of(redis_location)
    with open_online_store(redis_location, readonly=False) as store:
        for number in range(10):  # each window has six rooms of its own
            rooms = ROOMS + 100 * number
            as_of_ms = BEGIN_MS + number * WINDOW_MS
            store.write(SMALL_SCHEMA, as_of_ms, tables(SMALL_SCHEMA, rooms, USERS, as_of_ms, seed=0), rooms)
            store.write_foresight(4, rooms, np.ones((6, 2)), as_of_ms)
            (name,) = client.keys("test:v:*:4")
            assert client.hlen(name) <= 2 * 6 + 3
        store.set_served({"stable": 4}, {4: 2})
        assert store.rank_request(1).has_foresight.all()
        expiry_ms = ROOM_MEMORY_MS + SLACK_MS
        assert all(0 <= expiry_ms - client.pttl(key) < 60_000 for key in client.keys("test:v:*"))
        client.delete(name)  # it expired: the set of versions may still name it
        assert store.foresight_versions == () and not store.rank_request(1).has_foresight.any()


def test_vectors_that_are_written_while_the_store_is_replaced_leave_nothing(redis_location, monkeypatch):
    fill(redis_location)
    with open_online_store(redis_location, readonly=False) as store:
        write = store._vectors.write

        def late(*arguments):
            fill(redis_location, NEXT_MS)
            write(*arguments)

        monkeypatch.setattr(store._vectors, "write", late)
        store.write_foresight(4, ROOMS, np.ones((6, 2)), BEGIN_MS)
        assert store.foresight_versions == ()
    assert client_of(redis_location).keys("test:v:*") == []


def test_records_expire_in_redis_and_live_rooms_do_not(redis_location):
    fill(redis_location)
    client = client_of(redis_location)
    for key, layout in layouts(SMALL_SCHEMA).items():
        names = [name for name in client.keys("*") if layout.version in name]
        memory_ms = ROOM_MEMORY_MS if "live_id" in key else MEMORY_MS
        assert names and all(0 <= memory_ms + SLACK_MS - client.pttl(name) < 60_000 for name in names)
    assert client.ttl("test:head") == client.ttl("test:stamp") == -1
    rooms = [name for name in client.keys("*") if layouts(SMALL_SCHEMA)[("live_id",)].version in name]
    for name in rooms:
        client.pexpire(name, 60_000)
    (due,) = client.keys("test:refreshed:*")
    assert 0 < client.pttl(due) <= SLACK_MS // 2
    client.delete(due)
    with open_online_store(redis_location, readonly=False) as store:
        store.write(SMALL_SCHEMA, NEXT_MS, {}, ROOMS[:5])
    left = sorted(client.ttl(name) for name in rooms)
    assert left[0] <= 60 < 3600 < left[1]  # five live rooms were put off, the other one wasn't
    client.delete(*rooms)
    with (
        open_online_store(redis_location) as store,
        pytest.raises(ValueError, match="the record of live room 10 is gone"),
    ):
        store.request(1)


@pytest.mark.parametrize("lost_after", [("user_id",), list(SMALL_SCHEMA.stored)[-1]])
def test_a_redis_writer_without_the_lease_can_not_move_the_head(redis_location, lost_after):
    fill(redis_location)
    client = client_of(redis_location)
    filled = tables(SMALL_SCHEMA, ROOMS, USERS, NEXT_MS, value=5)

    def robbed(batches):
        yield from batches
        client.set("test:writer", "somebody else")

    filled[lost_after] = robbed(filled[lost_after])
    with open_online_store(redis_location, readonly=False) as store:
        with pytest.raises(OSError, match="another writer took over"):
            store.write(SMALL_SCHEMA, NEXT_MS, filled, ROOMS)
        assert store.as_of_ms == BEGIN_MS and client.get("test:writer") == b"somebody else"
    with RedisStore(redis_location, readonly=False, lease_s=0.1) as store:
        with pytest.raises(OSError, match="another writer is at work"):
            store.write(SMALL_SCHEMA, NEXT_MS, {}, ROOMS)
        client.pexpire("test:writer", 50)
        assert not store.write(SMALL_SCHEMA, NEXT_MS, {}, ROOMS).skipped
    assert client.exists("test:writer") == 0


@pytest.mark.parametrize("at_work", [False, True])
def test_a_redis_writer_that_was_stopped_for_too_long_overwrites_nothing(redis_location, at_work):
    """Its successor has written a later window, and may be at work on the next."""
    fill(redis_location)
    client = client_of(redis_location)
    filled = tables(SMALL_SCHEMA, ROOMS, USERS, NEXT_MS, value=5)
    found = []

    def stopped(batches):
        client.delete("test:writer")  # the lease ran out
        fill(redis_location, NEXT_MS + WINDOW_MS, value=9)
        if at_work:
            client.set("test:writer", "somebody else", px=5000)
        found.append(content(redis_location))
        yield from batches

    filled[("user_id",)] = stopped(filled[("user_id",)])
    with open_online_store(redis_location, readonly=False) as store:
        with pytest.raises(OSError, match="another writer took over"):
            store.write(SMALL_SCHEMA, NEXT_MS, filled, ROOMS)
        assert (store.request(1)[1]["entered_authors"] == 9).all()
    assert content(redis_location) == found[0]
    assert client.pttl("test:writer") <= 5000


def test_records_of_a_window_that_was_overtaken_between_check_and_write_are_not_written(redis_location, monkeypatch):
    fill(redis_location)
    client = client_of(redis_location)
    before = content(redis_location)
    begin = Pipeline.multi

    def late(pipeline):
        client.set("test:writer", "somebody else")
        begin(pipeline)

    with (
        open_online_store(redis_location, readonly=False) as store,
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="another writer took over"),
    ):
        patch.setattr(Pipeline, "multi", late)
        store.write(SMALL_SCHEMA, NEXT_MS, tables(SMALL_SCHEMA, ROOMS, USERS, NEXT_MS, value=5), ROOMS)
    client.delete("test:writer")
    assert content(redis_location) == before


def test_a_writer_that_lost_its_lease_removes_nothing_of_its_successor(redis_location, monkeypatch):
    fill(redis_location)
    client, found = client_of(redis_location), []
    with open_online_store(redis_location, readonly=False) as store:
        move = store._move

        def late(*arguments):
            move(*arguments)
            client.delete("test:writer")  # the lease ran out
            fill(redis_location, NEXT_MS + WINDOW_MS, value=9)
            found.append(content(redis_location))

        monkeypatch.setattr(store, "_move", late)
        with pytest.raises(OSError, match="another writer took over"):
            store.write(SMALL_SCHEMA, NEXT_MS, tables(SMALL_SCHEMA, ROOMS, USERS, NEXT_MS), ROOMS, replace=True)
        assert (store.request(1)[1]["entered_authors"] == 9).all()
    assert content(redis_location) == found[0]


def test_a_writer_keeps_its_lease_while_it_removes_what_was_replaced(redis_location, monkeypatch):
    fill(redis_location)
    client, left_ms = client_of(redis_location), []
    monkeypatch.setattr(redis_store, "_CHUNK", 2)
    with open_online_store(redis_location, readonly=False) as store:
        scan = store._server.scan_iter

        def slow(**arguments):
            client.pexpire("test:writer", 5000)
            for name in scan(**arguments):
                left_ms.append(client.pttl("test:writer"))
                yield name

        monkeypatch.setattr(store._server, "scan_iter", slow)
        store.write(SMALL_SCHEMA, NEXT_MS, tables(SMALL_SCHEMA, ROOMS, USERS, NEXT_MS), ROOMS, replace=True)
    assert left_ms[0] <= 5000 < min(left_ms[2:])


def test_what_the_server_refuses_is_not_the_requests_fault(redis_location):
    fill(redis_location)
    client = client_of(redis_location)
    with open_online_store(redis_location) as store:
        client.lpush("test:served", "not a string")
        with pytest.raises(UnusableStoreError, match="WRONGTYPE"):
            store.request(1)


def test_a_reader_does_not_wait_long_for_a_server_that_hangs():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(ConnectionError, match="no answer from the Redis"):
            open_online_store(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        assert 0.4 < time.monotonic() - begin < 1.5  # once the timeout of 0.5 s


def test_a_reader_connects_again_when_the_server_has_closed_its_connection(redis_location):
    fill(redis_location)
    with open_online_store(redis_location) as store:
        store.request(1)
        assert client_of(redis_location).client_kill_filter(_type="normal", skipme=True) >= 1
        assert len(store.request(1)[0]) == len(ROOMS)


def test_a_full_redis_keeps_its_head(redis_location):
    fill(redis_location)
    client = client_of(redis_location)
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 500_000)
    try:
        many = np.arange(20_000)
        with (
            open_online_store(redis_location, readonly=False) as store,
            pytest.raises(OSError, match="the Redis server is full"),
        ):
            store.write(SMALL_SCHEMA, NEXT_MS, tables(SMALL_SCHEMA, many, [0], NEXT_MS, seed=0), many)
    finally:
        client.config_set("maxmemory", 0)
    with open_online_store(redis_location) as store:
        assert store.as_of_ms == BEGIN_MS and len(store.request(1)[0]) == len(ROOMS)


def test_a_server_that_does_not_answer_is_named_without_the_password():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begin = time.monotonic()
        with pytest.raises(ConnectionError, match=f"redis://127.0.0.1:{port}/3.*no answer from the Redis") as caught:
            open_online_store(f"redis://user:secret@127.0.0.1:{port}/3?timeout_s=0.2")
        assert time.monotonic() - begin < 10
    chain, error = [], caught.value
    while error is not None:
        chain.append(f"{error!r}")
        error = error.__cause__ or error.__context__
    assert "secret" not in "".join(chain)
    with pytest.raises(ConnectionError, match="refused"):
        open_online_store(f"redis://127.0.0.1:{port}/3")


def test_a_wrong_password_is_an_error_without_it():
    if not LocalRedis.installed():
        pytest.skip(HOW_TO_INSTALL)
    with LocalRedis("--requirepass", "s3cret/x") as running:
        address = f"127.0.0.1:{running.port}/0"
        with pytest.raises(OSError, match=r"invalid|WRONGPASS") as caught:
            open_online_store(f"redis://:wrong-one@{address}", readonly=False)
        assert "wrong-one" not in str(caught.value)
        with open_online_store(f"redis://:s3cret%2Fx@{address}", readonly=False) as store:
            store.write(SMALL_SCHEMA, BEGIN_MS, tables(SMALL_SCHEMA, ROOMS, USERS, BEGIN_MS, seed=0), ROOMS)
            assert "s3cret" not in store.location


@pytest.mark.parametrize(
    "url",
    [
        *("redis://", "redis://h:x/0", "redis://h/a", "redis://h?namespac=1", "redis://h?namespace=a:b"),
        *("redis://h?timeout_s=inf", "redis://h?timeout_s=1e300", "redis://h?timeout_s=nan", "redis://h?timeout_s=0"),
    ],
)
def test_an_address_that_can_not_be_meant_is_an_error(url):
    with pytest.raises(ValueError, match=r"expected redis://host:port/db|must be numbers"):
        open_online_store(url)


def test_namespaces_are_stores_of_their_own(redis_location):
    fill(redis_location, value=1)
    fill(redis_location.replace("=test", "=other"), NEXT_MS, rooms=ROOMS[:2], value=2)
    with open_online_store(redis_location) as store:
        assert store.as_of_ms == BEGIN_MS and (store.request(1)[1]["statistic_sequence"] == 1).all()
