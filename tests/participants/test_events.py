"""Events at a real Redis: published after the decision, and published again if they are lost."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from participants.events import store
from participants.events.brokers import BrokerError
from participants.events.reconcile import Reconciliation, check_run, reconcile
from participants.events.redis_streams import RedisStreams
from participants.events.service import events
from participants.serving import create_schema
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tests.support.redis_process import RedisProcess, needs_redis

from .conftest import Caller, code_or_reason

pytestmark = needs_redis
STREAM = "events:orders"
AT_ONCE = Reconciliation(settled_after_s=0, kept_for_s=3_600)
ENTRIES_MAX = 1_000
# After every event of a test: when it has settled, and when it is no longer kept.
SETTLED_MS = time.time_ns() // 1_000_000 + 1_800_000
OLD_MS = SETTLED_MS + 3_600_000


@pytest.fixture
async def redis(home: Path) -> AsyncIterator[RedisProcess]:
    server = RedisProcess(home)
    await server.start()
    yield server
    await server.stop()


# One test reads and changes every column; for the rest, SQLite is enough and faster.
both_databases = pytest.mark.parametrize("database", ["postgresql", "sqlite"], indirect=True)


@pytest.fixture
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    is_sqlite = getattr(request, "param", "sqlite") == "sqlite"
    url = (
        f"sqlite+aiosqlite:///{tmp_path / 'events'}" if is_sqlite else request.getfixturevalue("database_url")
    )
    engine = create_async_engine(url)
    await create_schema(engine, store.metadata)
    yield engine
    await engine.dispose()


@pytest.fixture
async def broker(redis: RedisProcess) -> AsyncIterator[RedisStreams]:
    streams = RedisStreams(redis.url, entries_max=ENTRIES_MAX)
    yield streams
    await streams.close()


@pytest.fixture
async def caller(serve: Any, database: AsyncEngine, broker: RedisStreams) -> Caller:
    return await serve(events(database, broker=broker), "publish")


async def deliver(caller: Caller, *gids: str, topic: str = "orders") -> list[str]:
    """Deliver the message of each transaction; return `SUCCEEDED` or the reason for each."""
    calls = [
        pb.BranchCall(
            gid=gid,
            branch_id="event",
            operation=common.OPERATION_CONFIRM,
            kind=common.BRANCH_KIND_MESSAGE,
            action="publish",
            payload=json.dumps({"topic": topic, "type": "shop.order", "data": {"gid": gid}}).encode(),
            content_type="application/json",
        )
        for gid in gids
    ]
    request = pb.ExecuteBranchesRequest(calls=calls)
    outcomes = [o async for response in caller.stub.ExecuteBranches(request) for o in response.results]
    return [code_or_reason(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.index)]


async def stream(redis: RedisProcess) -> list[str]:
    """Return the data of the events in the stream, in order; check the ids."""
    async with redis.client() as client:
        entries = await client.xrange(STREAM)
    bodies = [json.loads(fields[b"event"]) for _, fields in entries]
    assert [fields[b"id"].decode() for _, fields in entries] == [body["id"] for body in bodies]
    return [body["data"]["gid"] for body in bodies]


async def test_a_message_is_an_entry_with_the_branchs_key(caller: Caller, redis: RedisProcess) -> None:
    assert await deliver(caller, "g1", "g2") == ["SUCCEEDED"] * 2
    assert await deliver(caller, "g1") == ["SUCCEEDED"]
    assert sorted(await stream(redis)) == ["g1", "g2"]


async def test_without_redis_the_delivery_fails_and_is_repeated(caller: Caller, redis: RedisProcess) -> None:
    await redis.kill()
    assert await deliver(caller, "g1") == ["HANDLER_ERROR"]
    assert await caller.rows("SELECT event_id FROM published_event") == []
    await redis.start()
    assert await deliver(caller, "g1") == ["SUCCEEDED"]
    assert await stream(redis) == ["g1"]


async def test_an_event_that_redis_refuses_fails_alone(caller: Caller, redis: RedisProcess) -> None:
    async with redis.client() as client:
        await client.set("events:text", "no stream")
    assert await deliver(caller, "g1", topic="text") == ["HANDLER_ERROR"]
    assert await deliver(caller, "g2") == ["SUCCEEDED"]


async def test_nothing_is_published_again_that_is_there(
    caller: Caller, broker: RedisStreams, database: AsyncEngine, redis: RedisProcess
) -> None:
    await deliver(caller, "g1")
    assert await reconcile(broker, AT_ONCE, database, now_ms=SETTLED_MS) == 0
    assert await stream(redis) == ["g1"]


@both_databases
async def test_lost_events_are_published_again_with_their_ids(
    caller: Caller, broker: RedisStreams, database: AsyncEngine, redis: RedisProcess
) -> None:
    await deliver(caller, "g1", "g2", "g3")
    async with redis.client() as client:
        [_, (position, _), _] = await client.xrange(STREAM)
        await client.xdel(STREAM, position)
    [*kept] = await stream(redis)
    [lost] = {"g1", "g2", "g3"} - set(kept)
    assert await reconcile(broker, AT_ONCE, database, now_ms=SETTLED_MS) == 1
    assert await stream(redis) == [*kept, lost]
    assert await reconcile(broker, AT_ONCE, database, now_ms=SETTLED_MS + 1) == 0


async def test_all_events_are_published_again_to_a_server_that_lost_its_disk(
    caller: Caller, broker: RedisStreams, database: AsyncEngine, redis: RedisProcess
) -> None:
    await deliver(caller, "g1", "g2")
    known = await check_run(broker, database, known="")
    assert await reconcile(broker, AT_ONCE, database, now_ms=SETTLED_MS) == 0
    await redis.lose_everything()
    await deliver(caller, "g3")
    assert await check_run(broker, database, known=known) != known
    assert await reconcile(broker, AT_ONCE, database, now_ms=SETTLED_MS) == 2
    [first, *others] = await stream(redis)
    assert (first, sorted(others)) == ("g3", ["g1", "g2"])


async def test_what_the_length_of_the_stream_has_trimmed_is_not_lost(
    caller: Caller, broker: RedisStreams, database: AsyncEngine, redis: RedisProcess
) -> None:
    await deliver(caller, "g1")
    await deliver(caller, "g2")
    async with redis.client() as client:
        await client.xtrim(STREAM, maxlen=1, approximate=False)
    assert await reconcile(broker, AT_ONCE, database, now_ms=SETTLED_MS) == 0
    assert await stream(redis) == ["g2"]


async def test_events_are_forgotten_when_they_were_checked_and_are_old(
    caller: Caller, broker: RedisStreams, database: AsyncEngine
) -> None:
    await deliver(caller, "g1")
    assert await reconcile(broker, AT_ONCE, database, now_ms=OLD_MS) == 0
    assert await caller.rows("SELECT event_id FROM published_event") == []


async def test_an_unavailable_redis_leaves_everything_to_be_checked(
    caller: Caller, broker: RedisStreams, database: AsyncEngine, redis: RedisProcess
) -> None:
    await deliver(caller, "g1")
    await redis.kill()
    with pytest.raises(BrokerError):
        await reconcile(broker, AT_ONCE, database, now_ms=OLD_MS)
    assert await caller.rows("SELECT event_id FROM published_event WHERE NOT checked") == [("g1/event",)]
    await redis.start()
