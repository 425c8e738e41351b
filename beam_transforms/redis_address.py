"""Where the Redis server of an online store is."""

import re
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

_OPTIONS = {"namespace", "timeout_s"}


def connect(url: str) -> tuple[str, str, "redis.Redis"]:
    """The address without the password, the namespace, and the client.

    Raises:
        ValueError: If the address can't be meant.
    """
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
