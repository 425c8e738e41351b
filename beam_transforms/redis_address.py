"""Where the Redis server of an online store is."""

import re
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

_OPTIONS = {"namespace", "timeout_s"}
_READ_S, _WRITE_S = 0.5, 2.0
_MOST_S = 86_400.0


def connect(url: str, readonly: bool) -> tuple[str, str, "redis.Redis"]:
    """The address without the password, the namespace, and the client.

    A reader waits for an answer once and for less long by default: it does so within a request. A connection that the
    server has closed is made again for both.

    Raises:
        ValueError: If the address can't be meant.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname}"
    try:
        port, options = parts.port or 6379, parse_qs(parts.query, strict_parsing=bool(parts.query))
        database = int(parts.path.strip("/") or 0)
        namespace = options.get("namespace", ["foresight"])[-1]
        timeout_s = float(options["timeout_s"][-1]) if "timeout_s" in options else _READ_S if readonly else _WRITE_S
    except ValueError as error:
        raise ValueError(f"{shown}: port, database and timeout_s must be numbers ({error})") from None
    known = not set(options) - _OPTIONS and 0 < timeout_s <= _MOST_S
    if not known or not re.fullmatch(r"[\w.-]+", namespace) or not parts.hostname:
        raise ValueError(
            f"{shown}: expected redis://host:port/db with the options {sorted(_OPTIONS)}, a namespace of letters, "
            f"digits and ._- and a positive timeout_s of a day at most; got {parts.query!r}"
        )
    again = (redis.ConnectionError,) if readonly else (redis.ConnectionError, redis.TimeoutError)
    client = redis.Redis(
        host=parts.hostname,
        port=port,
        db=database,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ssl=parts.scheme == "rediss",
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ConstantBackoff(0.05), 1, again),
        decode_responses=False,
    )
    return f"{shown}:{port}/{database}?namespace={namespace}", namespace, client
