"""A client of Redis whose callers repeat what failed, each in its own way."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, *, timeout_s: float) -> Redis:
    """Return a client of redis://HOST:PORT, rediss: or unix:, which fails at once or after `timeout_s`."""
    return Redis.from_url(
        url,
        protocol=2,  # its answers have the same form in every version of redis-py
        socket_connect_timeout=timeout_s,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
