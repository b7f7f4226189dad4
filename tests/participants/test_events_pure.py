"""Events as CloudEvents, and the choice of a broker: pure."""

import json
import re
import sys
from datetime import UTC, datetime

import pytest

from participants.events import faststream_brokers
from participants.events.brokers import open_broker
from participants.events.envelope import envelope, event_id, read
from participants.events.redis_streams import RedisStreams, stream_of
from participants.events.requests import Publish
from tcc import Branch

AT = datetime(2026, 11, 28, 6, 0, tzinfo=UTC)


def test_an_event_is_a_cloud_event_that_names_its_branch() -> None:
    request = Publish(topic="orders", type="shop.order.confirmed", subject="order-7", data={"sku": "A"})
    event = envelope(Branch("order-7", "event", "publish"), request, source="/shop", at=AT)
    assert (event.event_id, event.topic, event.key) == ("order-7/event", "orders", "order-7")
    assert json.loads(event.body) == {
        "specversion": "1.0",
        "id": "order-7/event",
        "source": "/shop",
        "type": "shop.order.confirmed",
        "subject": "order-7",
        "time": "2026-11-28T06:00:00Z",
        "datacontenttype": "application/json",
        "gid": "order-7",
        "branchid": "event",
        "data": {"sku": "A"},
    }
    assert read(event.body).get_extension("gid") == "order-7"


def test_an_event_without_a_subject_has_its_id_as_key() -> None:
    event = envelope(Branch("g", "b", ""), Publish(topic="t", type="x", data={}), source="/s", at=AT)
    assert event.key == "g/b"
    assert "subject" not in json.loads(event.body)


def test_ids_of_different_branches_differ() -> None:
    assert event_id("a/b", "c") != event_id("a", "b/c")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 1}', b"\xff", b'{"specversion": "9"}', b"7"])
def test_what_is_no_cloud_event_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        read(body)


@pytest.mark.parametrize("topic", ["", "a b", "{slot}", "a:b", ".a", "a\n", "a" * 129])
def test_a_topic_is_a_plain_name(topic: str) -> None:
    with pytest.raises(ValueError):
        Publish(topic=topic, type="x", data={})


def test_initiators_reach_no_other_keys_of_redis() -> None:
    assert stream_of("stock") == "events:stock"


@pytest.mark.parametrize(
    ("url", "message"),
    [("mqtt://h", "no broker has the scheme 'mqtt'"), ("nats://h:4222", "name the stream of JetStream")],
)
def test_urls_that_name_no_broker_are_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_broker(url, stream_entries_max=1)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h:6379", RedisStreams),
        ("unix:///run/redis.sock", RedisStreams),
        ("kafka://h:9092,i:9092", faststream_brokers.FastStreamBroker),
        ("amqp://u@h/v", faststream_brokers.FastStreamBroker),
        ("nats://h:4222/EVENTS", faststream_brokers.FastStreamBroker),
    ],
)
def test_the_scheme_of_the_url_chooses_the_broker(url: str, kind: type) -> None:
    assert isinstance(open_broker(url, stream_entries_max=1), kind)


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [
        ("participants.events.redis_streams", "redis://h", "redis"),
        ("faststream.kafka", "kafka://h", "kafka"),
        ("faststream.rabbit", "amqp://h", "rabbitmq"),
        ("faststream.nats", "nats://h/S", "nats"),
    ],
)
def test_a_broker_without_its_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, url: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"pip install 'tcc-demo[{extra}]'")):
        open_broker(url, stream_entries_max=1)
