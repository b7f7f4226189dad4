"""One adapter for every broker. The scheme of its URL says which."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from participants.events.envelope import Event
from participants.events.store import Published

_EXTRAS = {
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "kafka": "kafka",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "nats": "nats",
}


class BrokerError(Exception):
    """The broker is unavailable, or refused."""


class Broker(Protocol):
    """Where events are published."""

    async def start(self) -> None:
        """Connect. Call it once, on the event loop that publishes."""

    async def publish(self, events: Sequence[Event]) -> Sequence[str]:
        """Publish events; return their positions in their streams, or nothing if the broker has none.

        It returns when the broker has accepted all of them. If it raises, some may be published.
        """

    async def close(self) -> None:
        """Disconnect."""


@runtime_checkable
class CheckableBroker(Broker, Protocol):
    """A broker that may lose what it has accepted, and can be asked."""

    async def run_id(self) -> str:
        """Return the id of the server's process: it changes with each restart and each failover."""

    async def find_missing(self, published: Sequence[Published]) -> list[Published]:
        """Return those that are not in their streams, and have not been trimmed because of the length."""


def open_broker(url: str, *, stream_entries_max: int) -> Broker:
    """Return the broker of a URL. Only the chosen one's package is needed.

    Raises:
        ValueError: No broker has this scheme, or the URL is not complete.
        ModuleNotFoundError: Its package is not installed. The message names the extra.
    """
    scheme = urlsplit(url).scheme
    try:
        return _open(scheme, url, stream_entries_max)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"a broker at {scheme}: needs a package: pip install 'tcc-demo[{_EXTRAS[scheme]}]'",
            name=error.name,
        ) from error


def _open(scheme: str, url: str, stream_entries_max: int) -> Broker:
    match scheme:
        case "redis" | "rediss" | "unix":
            from participants.events.redis_streams import RedisStreams  # noqa: PLC0415 - an extra's package

            return RedisStreams(url, entries_max=stream_entries_max)
        case "kafka":
            from participants.events.faststream_brokers import kafka  # noqa: PLC0415

            return kafka(url)
        case "amqp" | "amqps":
            from participants.events.faststream_brokers import rabbitmq  # noqa: PLC0415

            return rabbitmq(url)
        case "nats":
            from participants.events.faststream_brokers import nats  # noqa: PLC0415

            return nats(url)
        case "http" | "https":
            from participants.events.webhook import Webhook  # noqa: PLC0415 - it needs this module

            return Webhook(url)
        case _:
            raise ValueError(f"no broker has the scheme {scheme!r}: use redis, kafka, amqp, nats or https")
