"""Shipments and outcomes under SIGKILL of every process, and under a power failure of Redis."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from participants.audit import Snapshot, audit, list_transactions
from participants.child_process import Child
from participants.shipping.store import SHIPMENTS, Shipment
from tests.support import daemon
from tests.support.databases import Databases
from tests.support.ports import free_port
from tests.support.redis_process import RedisProcess, needs_redis

IN_FLIGHT = 8
# Orders between two kills.
SOME = 60
# Of services that are no participants.
MODULES = {"webhook": "tests.support.webhook_process"}


class Service:
    """A process that is killed and started again with the same arguments."""

    def __init__(self, name: str, ready: str, home: Path, *arguments: str) -> None:
        module = name.partition("-")[0]
        self._name = name
        self._ready = ready
        self._command = (sys.executable, "-m", MODULES.get(module, f"participants.{module}"), *arguments)
        self.log = home / f"{name}.log"
        self.child: Child | None = None

    async def start(self) -> None:
        self.child = await Child.start(self._name, *self._command, log=self.log)
        await self.child.lines(self._ready)

    async def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        await self.child.stop()


@asynccontextmanager
async def seats(home: Path) -> AsyncIterator[str]:
    """Serve a participant that refuses every third order, so that some are cancelled."""
    database = create_async_engine(f"sqlite+aiosqlite:///{home / 'seats'}")
    participant = tcc.Participant("seats", database=database)

    @participant.action("take")
    class Take:
        async def try_(self, _branch, request: dict[str, Any], db) -> None:
            if request["number"] % 3 == 0:
                raise tcc.Rejected("SOLD_OUT")

        async def confirm(self, _branch, _request, db) -> None: ...

        async def cancel(self, _branch, _request, db) -> None: ...

    async with participant.running() as server:
        yield f"127.0.0.1:{server.port}"
    await database.dispose()


def config(log_url: str, seats_address: str, events_address: str, webhook_port: int) -> str:
    return f"""
        [log]
        url = "{log_url}"
        [events]
        url = "http://127.0.0.1:{webhook_port}/"
        participant = "events"
        [participants.seats]
        target = "{seats_address}"
        [participants.events]
        target = "{events_address}"
        retry_max_s = 0.5
        breaker_open_max_s = 0.5
    """


class Load:
    """Initiators that place orders until `stop` is called. The decision is all that they wait for."""

    def __init__(self, client: tcc.Client) -> None:
        self._client = client
        self._numbers = itertools.count(1)
        self._is_stopping = False
        self._placed = asyncio.Condition()
        self.confirmed: list[str] = []

    async def place_all(self) -> None:
        async with asyncio.TaskGroup() as initiators:
            for _ in range(IN_FLIGHT):
                initiators.create_task(self._place_some())

    async def some_more(self) -> None:
        """Wait until some more orders are confirmed."""
        wanted = len(self.confirmed) + SOME
        async with self._placed:
            await self._placed.wait_for(lambda: len(self.confirmed) >= wanted)

    def stop(self) -> None:
        self._is_stopping = True

    async def _place_some(self) -> None:
        while not self._is_stopping:
            number = next(self._numbers)
            gid = f"order-{number:05}"
            event = {"topic": "orders", "type": "shop.order.confirmed", "data": {"order_id": gid}}
            outcome = await self._client.execute(
                [
                    tcc.BranchRequest("seats", "take", {"number": number}),
                    tcc.BranchRequest("events", "publish", event, kind="message"),
                ],
                gid=gid,
                timeout_s=60,
                raise_on_cancel=False,
            )
            if outcome.confirmed:
                async with self._placed:
                    self.confirmed.append(gid)
                    self._placed.notify_all()


@pytest.mark.slow
@needs_redis
async def test_every_confirmed_order_ships_once_under_kills(
    databases: Databases, log_url: str, home: Path, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        events_url, shipping_url = (stack.enter_context(databases.one()) for _ in range(2))
        address = f"127.0.0.1:{free_port()}"
        redis = RedisProcess(home)
        events = Service(
            *("events", r"listening on (\S+)", tmp_path, f"--database={events_url}", f"--listen={address}"),
            *(f"--broker={redis.url}", "--settled-after-s=2"),
        )
        consumers = [
            Service(
                *(f"shipping-{number}", r"consuming (\S+) .*", tmp_path, f"--database={shipping_url}"),
                *(f"--redis={redis.url}", f"--consumer={number}", "--claim-after-s=1", "--attempts=100"),
            )
            for number in (1, 2)
        ]
        await asyncio.gather(*(each.start() for each in (redis, events, *consumers)))
        seats_address = await stack.enter_async_context(seats(tmp_path))
        webhook_port, stored = free_port(), tmp_path / "stored"
        webhook = Service("webhook", "storing (events)", tmp_path, str(webhook_port), str(stored))
        await webhook.start()
        coordinator = await stack.enter_async_context(
            daemon.serving(tmp_path, config(log_url, seats_address, address, webhook_port), workers=2)
        )
        client = await stack.enter_async_context(tcc.Client(coordinator.address))
        orders = Load(client)
        placing = asyncio.create_task(orders.place_all())
        for victim in (events, redis, consumers[0], webhook):
            await orders.some_more()
            await victim.kill()
            await victim.start()
        await orders.some_more()
        coordinator.kill_worker(coordinator.workers[0])
        await coordinator.next_worker()
        # A power failure takes what was not on disk yet: events, and what consumers have acknowledged.
        await asyncio.gather(*(each.kill() for each in consumers))
        await orders.some_more()
        await redis.fail_power()
        await asyncio.gather(*(each.start() for each in consumers))
        orders.stop()
        await placing
        for gid in orders.confirmed:
            await client.wait(gid, wait_for="completion", timeout_s=60)
        shipments = await shipped(shipping_url, count=len(orders.confirmed))
        transactions = await asyncio.to_thread(lambda: list(list_transactions(coordinator.address)))
        await published(redis, stored, {f"{each.gid}/{each.end.lower()}" for each in transactions})
        for each in (*consumers, events):
            await each.child.stop()
        await webhook.kill()
        await redis.stop()
    snapshot = Snapshot(stocks=[], restocked={}, reservations=[], coupons=[], orders=[], shipments=shipments)
    assert [str(violation) for violation in audit(snapshot, transactions)] == []
    assert sorted(shipment.order_id for shipment in shipments) == sorted(orders.confirmed)
    assert "were lost by the broker and published again" in events.log.read_text()


async def published(redis: RedisProcess, stored: Path, wanted: set[str]) -> None:
    """Wait until the outcomes of exactly these transactions are in the stream, and at the webhook."""
    # redis-py may swallow the cancellation by a timeout: a loop that never ends hangs the suite.
    ends = time.monotonic() + 60
    in_stream = at_webhook = set[str]()
    async with redis.client() as client:
        while not in_stream == at_webhook == wanted:
            missing = sorted((wanted - in_stream) | (wanted - at_webhook))
            assert time.monotonic() < ends, f"not published: {missing[:10]}"
            entries = await client.xrange("events:transactions")
            events = [json.loads(fields[b"event"]) for _, fields in entries]
            in_stream = {f"{each['subject']}/{each['type'].rpartition('.')[2]}" for each in events}
            at_webhook = set((await asyncio.to_thread(stored.read_text)).split())
            assert in_stream | at_webhook <= wanted


async def shipped(url: str, *, count: int) -> list[Shipment]:
    """Wait for so many shipments, and return all."""
    database = create_async_engine(url)
    found: list[Shipment] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            async with database.connect() as db:
                found = [Shipment(*row) for row in await db.execute(SHIPMENTS)]
    await database.dispose()
    return found
