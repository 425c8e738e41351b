"""RedisVectors: the foresight vectors of an online store in Redis."""

import itertools
from collections.abc import Sequence
from typing import cast

import numpy as np
import redis

from beam_transforms.foresight_vectors import VECTOR_MEMORY_MS, id_bytes
from beam_transforms.online_store import SLACK_MS

_CHUNK = 2000  # vectors a round trip
_SPARE = 1000


class RedisVectors:
    """One hash for each version, from the room's id to the vector's record, and a set of the versions.

    So a version's vectors are forgotten in one command, however many there are. The names hold the generation of the
    store's records: replacing these leaves their vectors behind in the same instant. A hash that isn't written to for
    as long as a room's record lives expires.

    Args:
        server: The client.
        namespace: What all names begin with.
    """

    def __init__(self, server: "redis.Redis", namespace: bytes) -> None:
        self._server, self._namespace = server, namespace

    def name(self, generation: str, version: int) -> bytes:
        """Name of the hash of a version."""
        return self._index(generation) + b":" + str(version).encode()

    def versions(self, generation: str) -> tuple[int, ...]:
        """The versions that have vectors, ascending."""
        known = sorted(int(version) for version in cast(set[bytes], self._server.smembers(self._index(generation))))
        with self._server.pipeline(transaction=False) as pipeline:
            for version in known:
                pipeline.exists(self.name(generation, version))
            return tuple(itertools.compress(known, pipeline.execute()))

    def write(self, generation: str, version: int, rooms: Sequence[bytes], records: Sequence[bytes]) -> None:
        """Writes records of vectors; each is seen whole."""
        name, expiry = self.name(generation, version), VECTOR_MEMORY_MS + SLACK_MS
        for begin in range(0, len(rooms), _CHUNK):
            here = slice(begin, begin + _CHUNK)
            items = [part for pair in zip(rooms[here], records[here], strict=True) for part in pair]
            with self._server.pipeline(transaction=True) as pipeline:
                pipeline.sadd(self._index(generation), str(version))
                pipeline.hset(name, items=items)
                pipeline.pexpire(name, expiry)
                pipeline.pexpire(self._index(generation), expiry)
                pipeline.execute()

    def forget(self, generation: str, version: int) -> int:
        """Removes a version's vectors; returns how many there were."""
        name = self.name(generation, version)
        with self._server.pipeline(transaction=True) as pipeline:
            pipeline.hlen(name)
            pipeline.unlink(name)
            pipeline.srem(self._index(generation), str(version))
            return int(pipeline.execute()[0])

    def sweep(self, generation: str, version: int, live_ids: np.ndarray) -> None:
        """Removes vectors of rooms that aren't live, once they are about as many as those of rooms that are."""
        name = self.name(generation, version)
        if cast(int, self._server.hlen(name)) <= 2 * len(live_ids) + _SPARE:
            return
        live = set(id_bytes(live_ids))
        over = [room for room in cast(list[bytes], self._server.hkeys(name)) if room not in live]
        for begin in range(0, len(over), _CHUNK):
            self._server.hdel(name, *over[begin : begin + _CHUNK])

    def _index(self, generation: str) -> bytes:
        return self._namespace + b"v:" + generation.encode()
