"""Stores of features in a folder and in a real Redis server."""

import pytest
import redis

from beam_transforms.local_redis import HOW_TO_INSTALL, LocalRedis


@pytest.fixture(scope="session")
def redis_server():
    if not LocalRedis.installed():
        pytest.skip(HOW_TO_INSTALL)
    with LocalRedis() as running:
        yield running


@pytest.fixture(params=["lmdb", "redis"])
def location(request, tmp_path):
    if request.param == "lmdb":
        return str(tmp_path / "store")
    return request.getfixturevalue("redis_location")


@pytest.fixture
def redis_location(redis_server):
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    return f"{redis_server.url}?namespace=test"
