"""RedisStore: the online store in a Redis server, for several machines."""

import contextlib
import itertools
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from beam_transforms.online_store import SLACK_MS, OnlineStore
from beam_transforms.schema import RankingSchema
from beam_transforms.store_head import StoreHead
from beam_transforms.window_write import WindowWrite
from beam_transforms.write_result import WriteResult

_CHUNK = 2000  # records a round trip
_ROUNDS = 5
_LEASE_S = 30.0
_OPTIONS = {"namespace", "timeout_s"}


class RedisStore(OnlineStore):
    """Stored features in a Redis server: one writer at a time, any number of readers.

    A request is one round trip, a second and third only when the head has changed since the last one.

    A window's records are written in chunks, and when all are there the head moves, in one MULTI/EXEC. In between a
    reader has the old head and may see records of the new window: each record is of one window, whole, but features of
    different keys may be a window apart until the head moves. Events later than the head have age 0 then. A
    replacement (`replace=True`) is never seen in part: it goes under new keys, and the head says which ones count.
    A writer that is killed leaves the old head; its records are written again by its successor.

    A writer holds a lease. A second one waits until it is given back or has run out, and a writer that lost its lease
    can't move the head.

    Records expire by themselves, after their memory and a slack. The server must not evict other keys: use its default
    `maxmemory-policy noeviction`. Redis Cluster isn't supported.

    Args:
        url: `redis://[user:password@]host[:port][/db][?namespace=foresight&timeout_s=2]`.
        readonly, expected: See `open_online_store`.
        lease_s: Seconds after which the lease of a writer that was killed runs out.
    """

    def __init__(
        self, url: str, readonly: bool = True, expected: RankingSchema | None = None, lease_s: float = _LEASE_S
    ) -> None:
        address, namespace, self._server = _connect(url)
        super().__init__(address, readonly, expected)
        self._name = namespace.encode() + b":"
        self._lease_ms = int(lease_s * 1000)
        self._known: tuple[bytes, StoreHead] | None = None
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

    def _read(self, wanted: Callable[[StoreHead], list[bytes]]) -> tuple[StoreHead, list[bytes | None]]:
        with self._errors():
            for _ in range(_ROUNDS):
                stamp, head = self._known or self._fetch()
                keys = self._record_names(head, wanted(head))
                with self._server.pipeline(transaction=True) as pipeline:
                    pipeline.get(self._name + b"stamp")
                    if keys:
                        pipeline.mget(keys)
                    now, *records = pipeline.execute()
                if now == stamp:
                    return head, records[0] if keys else []
                self._known = None
        raise OSError(
            f"{self.location}: the head changed {_ROUNDS} times during one request; is it written to nonstop?"
        )

    def _fetch(self) -> tuple[bytes, StoreHead]:
        """The head as it is now, remembered."""
        with self._server.pipeline(transaction=True) as pipeline:
            pipeline.get(self._name + b"stamp")
            pipeline.get(self._name + b"head")
            stamp, data = pipeline.execute()
        if stamp is None or data is None:
            raise ValueError(
                f"{self.location}: the online store is empty, or its writing was not finished: write it, or check "
                "host, database and namespace"
            )
        self._known = (stamp, self._parse_head(data))
        return self._known

    def _write(self, write: WindowWrite) -> WriteResult:
        with self._errors(), self._lease() as token:
            stamped = self._server.exists(self._name + b"stamp")
            previous = self._fetch()[1] if stamped else None
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
            removed = self._remove_others(generation) if write.replace else None
            return WriteResult(skipped=False, records=write.count, removed=removed)

    def _send(self, commands: Iterable[tuple], token: bytes) -> None:
        """Executes commands in chunks and keeps the lease; raises OSError if it was lost."""
        remaining = iter(commands)
        while chunk := list(itertools.islice(remaining, _CHUNK)):
            with self._server.pipeline(transaction=False) as pipeline:
                pipeline.get(self._name + b"writer")
                pipeline.pexpire(self._name + b"writer", self._lease_ms)
                for command in chunk:
                    pipeline.execute_command(*command)
                if pipeline.execute()[0] != token:
                    raise OSError(self._lost())

    def _move(self, head: StoreHead, token: bytes) -> None:
        lease = self._name + b"writer"
        with self._server.pipeline(transaction=True) as pipeline:
            pipeline.watch(lease)
            if pipeline.get(lease) != token:
                raise OSError(self._lost())
            pipeline.multi()
            pipeline.set(self._name + b"stamp", head.stamp)
            pipeline.set(self._name + b"head", head.data)
            try:
                pipeline.execute()
            except redis.WatchError as error:
                raise OSError(self._lost()) from error

    def _refresh(self, head: StoreHead, token: bytes) -> None:
        """Now and then puts off the expiry of all live rooms: one may be silent for long and is still live."""
        name = self._name + b"refreshed:" + head.generation.encode()
        if self._server.set(name, b"1", nx=True, px=SLACK_MS // 2):
            layout = head.layouts[("live_id",)]
            keys = self._record_names(head, layout.keys({"live_id": head.live_ids}))
            self._send((("PEXPIRE", key, layout.memory_ms + SLACK_MS) for key in keys), token)

    def _remove_others(self, generation: str) -> int:
        """Removes the records of earlier fillings, also of those that weren't finished."""
        mine, removed = self._prefix(generation), 0
        names = self._server.scan_iter(match=self._name + b"r:*", count=_CHUNK)
        others = (name for name in names if not name.startswith(mine))
        while chunk := list(itertools.islice(others, _CHUNK)):
            removed += self._server.unlink(*chunk)
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

    def _lost(self) -> str:
        return f"{self.location}: another writer took over, this one was too slow; the head wasn't moved: write again"

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
            raise ValueError(f"{self.location}: the Redis server refused a command ({error})") from error


def _connect(url: str) -> tuple[str, str, "redis.Redis"]:
    """The address without the password, the namespace, and the client."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname}"
    try:
        port, options = parts.port or 6379, parse_qs(parts.query, strict_parsing=bool(parts.query))
        database = int(parts.path.strip("/") or 0)
        namespace, timeout_s = options.get("namespace", ["foresight"])[-1], float(options.get("timeout_s", ["2"])[-1])
    except ValueError as error:
        raise ValueError(f"{shown}: port, database and timeout_s must be numbers ({error})") from None
    if set(options) - _OPTIONS or not re.fullmatch(r"[\w.-]+", namespace) or not timeout_s > 0 or not parts.hostname:
        raise ValueError(
            f"{shown}: expected redis://host:port/db with the options {sorted(_OPTIONS)}, a namespace of letters, "
            f"digits and ._- and a positive timeout_s; got {parts.query!r}"
        )
    client = redis.Redis(
        host=parts.hostname,
        port=port,
        db=database,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ssl=parts.scheme == "rediss",
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ConstantBackoff(0.05), 1),
        decode_responses=False,
    )
    return f"{shown}:{port}/{database}?namespace={namespace}", namespace, client
