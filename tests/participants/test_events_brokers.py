"""Events at Kafka, RabbitMQ and NATS: with FastStream's brokers in memory, not with real servers."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from faststream.kafka import KafkaMessage, TestKafkaBroker
from faststream.nats import NatsMessage, TestNatsBroker
from faststream.rabbit import RabbitMessage, TestRabbitBroker

from participants.events.brokers import BrokerError
from participants.events.envelope import CONTENT_TYPE, envelope
from participants.events.faststream_brokers import FastStreamBroker, kafka, nats, rabbitmq
from participants.events.requests import Publish
from tcc import Branch

EVENTS = [
    envelope(
        Branch(gid, "event", "publish"),
        Publish(topic="orders", type="shop.order.confirmed", subject="ann", data={"order_id": gid}),
        source="/shop",
        at=datetime.now(UTC),
    )
    for gid in ("g1", "g2")
]


async def publish(broker: FastStreamBroker, in_memory: Any) -> None:
    async with in_memory(broker.broker):
        assert await broker.publish(EVENTS) == ()


def data(body: bytes) -> dict[str, Any]:
    return json.loads(body)["data"]


async def test_kafka_gets_each_event_with_its_subject_as_key() -> None:
    broker = kafka("kafka://one:9092,two:9092")
    seen: list[Any] = []

    @broker.broker.subscriber("orders")
    async def receive(body: Any, message: KafkaMessage) -> None:
        raw = message.raw_message
        seen.append((data(raw.value), raw.key, message.headers["id"], message.headers["content-type"]))

    await publish(broker, TestKafkaBroker)
    assert sorted(seen, key=str) == [
        ({"order_id": "g1"}, b"ann", "g1/event", CONTENT_TYPE),
        ({"order_id": "g2"}, b"ann", "g2/event", CONTENT_TYPE),
    ]


async def test_rabbitmq_gets_the_id_of_each_event() -> None:
    broker = rabbitmq("amqp://guest@localhost/")
    seen: list[Any] = []

    @broker.broker.subscriber("orders")
    async def receive(body: Any, message: RabbitMessage) -> None:
        raw = message.raw_message
        seen.append((data(raw.body), raw.message_id, raw.content_type))

    await publish(broker, TestRabbitBroker)
    assert sorted(seen, key=str) == [
        ({"order_id": "g1"}, "g1/event", CONTENT_TYPE),
        ({"order_id": "g2"}, "g2/event", CONTENT_TYPE),
    ]


async def test_jetstream_gets_the_id_by_which_it_drops_duplicates() -> None:
    broker = nats("nats://localhost:4222/EVENTS")
    seen: list[Any] = []

    @broker.broker.subscriber("orders", stream="EVENTS")
    async def receive(body: Any, message: NatsMessage) -> None:
        headers = message.headers
        seen.append((data(message.body), headers["Nats-Msg-Id"], headers["content-type"]))

    await publish(broker, TestNatsBroker)
    assert sorted(seen, key=str) == [
        ({"order_id": "g1"}, "g1/event", CONTENT_TYPE),
        ({"order_id": "g2"}, "g2/event", CONTENT_TYPE),
    ]


async def test_a_refused_event_fails_the_publication() -> None:
    broker = kafka("kafka://localhost:9092")

    @broker.broker.subscriber("orders")
    async def refuse(body: Any) -> None:
        raise RuntimeError("refused")

    with pytest.raises(BrokerError, match="refused"):
        await publish(broker, TestKafkaBroker)
