"""RedisStore: the online store in a Redis server, for several machines."""

import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import redis

from beam_transforms.foresight_vectors import id_bytes
from beam_transforms.online_store import SLACK_MS, OnlineStore
from beam_transforms.redis_address import connect
from beam_transforms.redis_vectors import RedisVectors
from beam_transforms.schema import RankingSchema
from beam_transforms.served import Served
from beam_transforms.store_head import StoreHead
from beam_transforms.store_snapshot import StoreSnapshot
from beam_transforms.unusable_store_error import UnusableStoreError
from beam_transforms.wanted_records import WantedRecords
from beam_transforms.window_write import WindowWrite
from beam_transforms.write_result import WriteResult

_CHUNK = 2000  # records a round trip
_ROUNDS = 10
_LEASE_S = 30.0


class _Known(NamedTuple):
    """What was read last of that which every request needs, and the bytes that tell whether it still holds."""

    stamp: bytes
    head: StoreHead
    served_data: bytes | None
    served: Served


class RedisStore(OnlineStore):
    """Stored features in a Redis server: one writer at a time, any number of readers.

    A request is one round trip, a second and third only when the head, or what is served, has changed since the last.

    A window's records are written in chunks, and when all are there the head moves, in one MULTI/EXEC. In between a
    reader has the old head and may see records of the new window: each record is of one window, whole, but features of
    different keys may be a window apart until the head moves. Events later than the head have age 0 then. A
    replacement (`replace=True`) is never seen in part: it goes under new keys, and the head says which ones count.
    A writer that is killed leaves the old head; its records are written again by its successor.

    A writer holds a lease. A second one waits until it is given back or has run out, and a writer that lost its lease
    can't write anything more: each chunk is executed only if the lease is still held, and renews it.

    The foresight vectors of a version are one hash, see `RedisVectors`; writing them needs no lease.

    Records expire by themselves, after their memory and a slack. The server must not evict other keys: use its default
    `maxmemory-policy noeviction`. Redis Cluster isn't supported.

    Args:
        url: `redis://[user:password@]host[:port][/db][?namespace=foresight&timeout_s=...]`. A reader
            waits 0.5 s by default, once, and a writer 2 s, twice: a request must not wait for a server that hangs.
        readonly, expected: See `open_online_store`.
        lease_s: Seconds after which the lease of a writer that was killed runs out.
    """

    def __init__(
        self, url: str, readonly: bool = True, expected: RankingSchema | None = None, lease_s: float = _LEASE_S
    ) -> None:
        address, namespace, self._server = connect(url, readonly)
        super().__init__(address, readonly, expected)
        self._name = namespace.encode() + b":"
        self._lease_ms = int(lease_s * 1000)
        self._known: _Known | None = None
        self._vectors = RedisVectors(self._server, self._name)
        try:
            if readonly:
                self._head()
            else:
                with self._errors():
                    self._server.ping()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._server.close()

    @property
    def served(self) -> Served:
        with self._errors():
            return self._parse_served(cast(bytes | None, self._server.get(self._name + b"served")))

    @property
    def foresight_versions(self) -> tuple[int, ...]:
        with self._errors():
            return self._vectors.versions(self._fetch().head.generation)

    def _read(self, wanted: Callable[[StoreHead, Served], WantedRecords]) -> StoreSnapshot:
        with self._errors():
            for _ in range(_ROUNDS):
                known, asked = self._ask(wanted)
                keys = self._record_names(known.head, list(asked.keys))
                rooms = [] if asked.version is None else id_bytes(asked.live_ids)
                with self._server.pipeline(transaction=True) as pipeline:
                    pipeline.get(self._name + b"stamp")
                    pipeline.get(self._name + b"served")
                    if keys:
                        pipeline.mget(keys)
                    if rooms:
                        pipeline.hmget(self._vectors.name(known.head.generation, asked.version or 0), rooms)
                    stamp, served, *found = pipeline.execute()
                if stamp == known.stamp and served == known.served_data:
                    records = found.pop(0) if keys else []
                    return StoreSnapshot(known.head, known.served, records, found[0] if rooms else [])
                self._known = None
        raise OSError(
            f"{self.location}: the head changed {_ROUNDS} times during one request; is it written to nonstop?"
        )

    def _ask(self, wanted: Callable[[StoreHead, Served], WantedRecords]) -> tuple[_Known, WantedRecords]:
        """What is wanted, and of which state. What isn't there in the remembered one may be there by now."""
        known = self._known
        if known is not None:
            with contextlib.suppress(ValueError):
                return known, wanted(known.head, known.served)
        known = self._fetch()
        return known, wanted(known.head, known.served)

    def _fetch(self) -> _Known:
        """The head and what is served as they are now, remembered."""
        with self._server.pipeline(transaction=True) as pipeline:
            for name in (b"stamp", b"head", b"served"):
                pipeline.get(self._name + name)
            stamp, data, served = pipeline.execute()
        if stamp is None or data is None:
            raise UnusableStoreError(
                f"{self.location}: the online store is empty, or its writing was not finished: write it, or check "
                "host, database and namespace"
            )
        known = _Known(stamp, self._parse_head(data), served, self._parse_served(served))
        self._known = known
        return known

    def _write_foresight(
        self, version: int, live_ids: np.ndarray, records: list[bytes], generation: str | None
    ) -> None:
        if not 0 <= version < 2**63:
            raise ValueError(f"{self.location}: a version must be from 0 to 2^63 - 1, got {version}")
        with self._errors():
            head = self._fetch().head
            if generation not in (None, head.generation):
                return  # replaced meanwhile: these are of what is gone
            self._vectors.write(head.generation, version, id_bytes(live_ids), records)
            now = self._fetch().head
            if now.generation != head.generation:  # replaced meanwhile: these are of what is gone
                self._vectors.forget(head.generation, version)
            else:
                self._vectors.sweep(now.generation, version, now.live_ids)

    def _forget_foresight(self, version: int) -> int:
        with self._errors():
            return self._vectors.forget(self._fetch().head.generation, version)

    def _set_served(self, served: Served) -> None:
        with self._errors():
            self._server.set(self._name + b"served", served.data)

    def _write(self, write: WindowWrite) -> WriteResult:
        with self._errors(), self._lease() as token:
            stamped = self._server.exists(self._name + b"stamp")
            previous = self._fetch().head if stamped else None
            if write.is_replay(previous, self.location):
                return WriteResult(skipped=True)
            generation = previous.generation if previous is not None else "first"
            generation = secrets.token_hex(4) if write.replace else generation
            prefix = self._prefix(generation)
            for layout, keys, records in write.records():
                expiry = str(layout.memory_ms + SLACK_MS).encode()
                names = (prefix + key for key in keys)
                sets = (("SET", name, record, "PX", expiry) for name, record in zip(names, records, strict=True))
                self._send(sets, token)
            head = write.head(previous, lambda keys: self._records([prefix + key for key in keys]), generation)
            self._refresh(head, token)
            self._move(head, token)
            removed = self._remove_others(generation, previous, token) if write.replace else None
            return WriteResult(skipped=False, records=write.count, removed=removed)

    def _send(self, commands: Iterable[tuple], token: bytes) -> None:
        """Executes commands in chunks, as `_execute` does each."""
        remaining = iter(commands)
        while chunk := list(itertools.islice(remaining, _CHUNK)):
            self._execute(chunk, token)

    def _execute(self, commands: Sequence[tuple], token: bytes) -> list[Any]:
        """The answers to commands that are executed all at once, and only if the lease is still held; renews it.

        Raises:
            OSError: If the lease was lost; nothing was executed.
        """
        lease = self._name + b"writer"
        for _ in range(2):  # a broken connection ends a WATCH, too
            with self._server.pipeline(transaction=True) as pipeline, contextlib.suppress(redis.WatchError):
                pipeline.watch(lease)
                if pipeline.get(lease) != token:
                    break
                pipeline.multi()
                pipeline.pexpire(lease, self._lease_ms)
                for command in commands:
                    pipeline.execute_command(*command)
                return pipeline.execute()[1:]
        raise OSError(f"{self.location}: another writer took over, this one was too slow and has stopped: write again")

    def _move(self, head: StoreHead, token: bytes) -> None:
        self._execute([("SET", self._name + b"stamp", head.stamp), ("SET", self._name + b"head", head.data)], token)

    def _refresh(self, head: StoreHead, token: bytes) -> None:
        """Now and then puts off the expiry of all live rooms: one may be silent for long and is still live."""
        name = self._name + b"refreshed:" + head.generation.encode()
        if self._server.set(name, b"1", nx=True, px=SLACK_MS // 2):
            layout = head.layouts[("live_id",)]
            keys = self._record_names(head, layout.keys({"live_id": head.live_ids}))
            self._send((("PEXPIRE", key, layout.memory_ms + SLACK_MS) for key in keys), token)

    def _remove_others(self, generation: str, previous: StoreHead | None, token: bytes) -> int:
        """Removes the records of earlier fillings, also of those that weren't finished, and the vectors of the last."""
        mine, removed = self._prefix(generation), 0
        if previous is not None:
            versions = self._vectors.versions(previous.generation)
            removed += sum(self._vectors.forget(previous.generation, version) for version in versions)
        names = self._server.scan_iter(match=self._name + b"r:*", count=_CHUNK)
        while chunk := list(itertools.islice(names, _CHUNK)):
            others = [name for name in chunk if not name.startswith(mine)]
            removed += sum(self._execute([("UNLINK", *others)] if others else [], token))
        return removed

    @contextlib.contextmanager
    def _lease(self) -> Iterator[bytes]:
        """The right to write: waits for it as long as a killed writer may have it."""
        lease, token = self._name + b"writer", secrets.token_bytes(8)
        end = time.monotonic() + 1.5 * self._lease_ms / 1000
        while not self._server.set(lease, token, nx=True, px=self._lease_ms):
            if time.monotonic() > end:
                raise OSError(f"{self.location}: another writer is at work; there can only be one")
            time.sleep(0.05)
        try:
            yield token
        finally:
            with contextlib.suppress(redis.RedisError), self._server.pipeline(transaction=True) as pipeline:
                pipeline.watch(lease)
                if pipeline.get(lease) == token:
                    pipeline.multi()
                    pipeline.delete(lease)
                    pipeline.execute()

    def _records(self, names: list[bytes]) -> list[bytes | None]:
        return cast(list[bytes | None], self._server.mget(names))

    def _prefix(self, generation: str) -> bytes:
        return self._name + b"r:" + generation.encode() + b":"

    def _record_names(self, head: StoreHead, keys: list[bytes]) -> list[bytes]:
        prefix = self._prefix(head.generation)
        return [prefix + key for key in keys]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise ConnectionError(
                f"{self.location}: no answer from the Redis server ({error}); check that it runs and may be reached"
            ) from error
        except redis.exceptions.OutOfMemoryError as error:
            raise OSError(
                f"{self.location}: the Redis server is full ({error}); give it more memory. The head wasn't moved"
            ) from error
        except redis.RedisError as error:
            raise UnusableStoreError(f"{self.location}: the Redis server refused a command ({error})") from error
