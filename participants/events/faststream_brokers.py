"""Kafka, RabbitMQ and NATS through FastStream. All of them confirm what they have stored."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from participants.events.brokers import BrokerError
from participants.events.envelope import CONTENT_TYPE, Event


class _FastStream(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class FastStreamBroker:
    """A broker of FastStream. It has no positions."""

    def __init__(self, broker: _FastStream, send: Callable[[Event], Awaitable[object]]) -> None:
        self.broker = broker
        self._send = send

    async def start(self) -> None:
        await self.broker.start()

    async def publish(self, events: Sequence[Event]) -> Sequence[str]:
        try:
            async with asyncio.TaskGroup() as sends:
                for event in events:
                    sends.create_task(self._publish_one(event))
        except ExceptionGroup as errors:
            raise BrokerError(str(errors.exceptions[0])) from errors
        return ()

    async def close(self) -> None:
        await self.broker.stop()

    async def _publish_one(self, event: Event) -> None:
        await self._send(event)


def kafka(url: str) -> FastStreamBroker:
    """Return Kafka at kafka://HOST:PORT[,HOST:PORT]. Every replica in sync has stored an event."""
    from faststream.kafka import KafkaBroker  # noqa: PLC0415 - each needs a package of its own

    broker = KafkaBroker(urlsplit(url).netloc.split(","), acks="all", enable_idempotence=True)

    def send(event: Event) -> Awaitable[object]:
        headers = {"content-type": CONTENT_TYPE, "id": event.event_id}
        return broker.publish(event.body, topic=event.topic, key=event.key.encode(), headers=headers)

    return FastStreamBroker(broker, send)


def rabbitmq(url: str) -> FastStreamBroker:
    """Return RabbitMQ. An event goes to the queue that is named as its topic, which must exist."""
    from faststream.rabbit import RabbitBroker  # noqa: PLC0415

    broker = RabbitBroker(url)

    def send(event: Event) -> Awaitable[object]:
        return broker.publish(
            event.body,
            event.topic,
            mandatory=True,
            persist=True,
            content_type=CONTENT_TYPE,
            message_id=event.event_id,
        )

    return FastStreamBroker(broker, send)


def nats(url: str) -> FastStreamBroker:
    """Return NATS at nats://HOST:PORT/STREAM. Without a stream of JetStream, NATS would store nothing.

    Raises ValueError if the URL names none.
    """
    from faststream.nats import NatsBroker  # noqa: PLC0415

    parts = urlsplit(url)
    stream = parts.path.strip("/")
    if not stream:
        raise ValueError("name the stream of JetStream: nats://HOST:PORT/STREAM")
    broker = NatsBroker(f"nats://{parts.netloc}")

    def send(event: Event) -> Awaitable[Any]:
        # JetStream drops a second event with the same Nats-Msg-Id within its window (two minutes).
        headers = {"content-type": CONTENT_TYPE, "Nats-Msg-Id": event.event_id}
        return broker.publish(event.body, event.topic, headers=headers, stream=stream)

    return FastStreamBroker(broker, send)
