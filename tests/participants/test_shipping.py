"""A consumer group on a real Redis: each event ships once, whatever is delivered again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from participants.events.envelope import envelope
from participants.events.redis_streams import TIMEOUT_S, RedisStreams, stream_of
from participants.events.requests import Publish
from participants.redis_client import connect
from participants.serving import create_schema
from participants.shipping import ORDER_CONFIRMED, TOPIC, store
from participants.shipping.consumer import Consumer, Subscription
from participants.shipping.handling import handle
from tcc import Branch, Participant
from tests.support.redis_process import RedisProcess, needs_redis

pytestmark = needs_redis
STREAM = stream_of(TOPIC)
SUBSCRIPTION = Subscription(
    stream=STREAM, group="shipping", consumer="one", claim_after_s=0, attempts_max=2, pause_s=0.01
)


@pytest.fixture
async def redis(home: Path) -> AsyncIterator[RedisProcess]:
    server = RedisProcess(home)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(redis: RedisProcess) -> AsyncIterator[Any]:
    async with connect(redis.url, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shipping'}")
    await create_schema(engine, store.metadata)
    yield engine
    await engine.dispose()


class Shop:
    """A consumer of one name, and what it has shipped."""

    def __init__(self, client: Any, database: AsyncEngine, **changes: Any) -> None:
        self._shipping = Participant("shipping", database=database)
        self._database = database
        subscription = replace(SUBSCRIPTION, **changes)
        self.consumer = Consumer(client, subscription, partial(handle, self._shipping), database)

    async def start(self) -> "Shop":
        await self._shipping.create_schema()
        await self.consumer.join()
        return self

    async def shipped(self) -> list[str]:
        async with self._database.connect() as db:
            return sorted(row.order_id for row in await db.execute(store.SHIPMENTS))


async def publish(redis: RedisProcess, *gids: str, kind: str = ORDER_CONFIRMED, **data: Any) -> None:
    streams = RedisStreams(redis.url, entries_max=1_000)
    for gid in gids:
        request = Publish(topic=TOPIC, type=kind, data={"order_id": gid} | data)
        branch = Branch(gid, "event", "publish")
        await streams.publish([envelope(branch, request, source="/shop", at=datetime.now(UTC))])
    await streams.close()


async def pending(client: Any) -> int:
    return (await client.xpending(STREAM, SUBSCRIPTION.group))["pending"]


async def test_an_event_that_is_published_again_ships_once(
    redis: RedisProcess, client: Any, database: AsyncEngine
) -> None:
    shop = await Shop(client, database).start()
    await publish(redis, "g1", "g1", "g2")
    await shop.consumer.step()
    await publish(redis, "g1")
    await shop.consumer.step()
    assert await shop.shipped() == ["g1", "g2"]
    assert await pending(client) == 0


async def test_events_of_another_type_are_acknowledged(
    redis: RedisProcess, client: Any, database: AsyncEngine
) -> None:
    shop = await Shop(client, database).start()
    await publish(redis, "g1", kind="shop.order.returned")
    await shop.consumer.step()
    assert (await shop.shipped(), await pending(client)) == ([], 0)


async def test_what_a_dead_consumer_left_is_claimed(
    redis: RedisProcess, client: Any, database: AsyncEngine
) -> None:
    shop = await Shop(client, database).start()
    await publish(redis, "g1")
    await client.xreadgroup(SUBSCRIPTION.group, "dead", {STREAM: ">"})
    await shop.consumer.step()
    assert (await shop.shipped(), await pending(client)) == (["g1"], 0)


async def test_what_a_living_consumer_handles_is_left_to_it(
    redis: RedisProcess, client: Any, database: AsyncEngine
) -> None:
    shop = await Shop(client, database, claim_after_s=600).start()
    await publish(redis, "g1")
    await client.xreadgroup(SUBSCRIPTION.group, "busy", {STREAM: ">"})
    await shop.consumer.step()
    assert (await shop.shipped(), await pending(client)) == ([], 1)


async def test_an_event_is_dead_after_so_many_attempts_and_blocks_no_other(
    redis: RedisProcess, client: Any, database: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    shop = await Shop(client, database).start()
    await publish(redis, "bad", order_id="secret " * 20)
    await publish(redis, "g1")
    for attempt in range(SUBSCRIPTION.attempts_max):
        await shop.consumer.step()
        assert (await pending(client), await client.exists(f"{STREAM}:dead")) == (1, 0), attempt
    await shop.consumer.step()
    assert (await shop.shipped(), await pending(client)) == (["g1"], 0)
    [(_, dead)] = await client.xrange(f"{STREAM}:dead")
    [(position, fields), _] = await client.xrange(STREAM)
    assert dead == fields | {b"stream": STREAM.encode(), b"position": position}
    assert "ValidationError: " in caplog.text
    assert "secret" not in caplog.text


async def test_an_unavailable_database_costs_no_attempts(
    redis: RedisProcess, client: Any, database: AsyncEngine
) -> None:
    shop = await Shop(client, database).start()
    await publish(redis, "g1")
    unavailable = create_async_engine("sqlite+aiosqlite:////nonexistent/shipping")
    for _ in range(SUBSCRIPTION.attempts_max + 1):
        with pytest.raises(OperationalError):
            await Shop(client, unavailable).consumer.step()
    assert await client.xlen(STREAM) == 1
    assert await pending(client) == 0
    await shop.consumer.step()
    assert await shop.shipped() == ["g1"]
    assert await client.exists(f"{STREAM}:dead") == 0


async def test_consumption_goes_on_after_redis_has_lost_everything(
    redis: RedisProcess, client: Any, database: AsyncEngine
) -> None:
    shop = await Shop(client, database).start()
    running = asyncio.create_task(shop.consumer.run())
    await publish(redis, "g1")
    await redis.lose_everything()
    await publish(redis, "g1", "g2")
    async with asyncio.timeout(60):
        while await shop.shipped() != ["g1", "g2"] or await pending(client):
            assert not running.done()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
