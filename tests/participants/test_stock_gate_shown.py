"""A flash sale at four processes of the inventory behind one Redis, which is killed, replaced and paused.

The Trys, Confirms and Cancels are sent as a coordinator sends them, in batches: whole transactions would
take ten times as long and prove nothing more about the gate.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from participants import redis_server
from participants.child_process import Child
from participants.inventory.store import restock
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc
from tests.support.redis_process import RedisProcess, needs_redis

from .conftest import CANCEL, CONFIRM, TRY, call

if not redis_server.missing():
    from participants.inventory.tokens import Tokens

pytestmark = [pytest.mark.slow, needs_redis]

ORDERS = int(os.environ.get("TCC_TEST_SALE_ORDERS", "50000"))
STOCK = 1_000
PROCESSES = 4
BATCH = 200
IN_FLIGHT = 16
PAYLOAD = {"sku": "hot", "quantity": 1}


class Redis(RedisProcess):
    """A Redis that can be paused, and that can start with the data of an earlier moment."""

    def copy_data(self) -> None:
        shutil.copytree(self._home / "appendonlydir", self._home / "copy")

    async def go_back(self) -> None:
        await self.kill()
        shutil.rmtree(self._home / "appendonlydir")
        shutil.move(self._home / "copy", self._home / "appendonlydir")
        await self.start()

    def signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.signal(number)


class Sale:
    """Orders of one unit each at all processes. A call without an answer is repeated at the next one."""

    def __init__(self, children: list[Child], stubs: list[Any]) -> None:
        self.children = children
        self._stubs = stubs
        self._orders = 0
        self._turn = 0
        self.ended: Counter[str] = Counter()

    async def sell(self, orders: int, *, cancel_every: int = 0) -> None:
        """Try so many orders; confirm those that succeed, and cancel some of them."""
        numbers = iter(range(self._orders, self._orders + orders))
        self._orders += orders

        async def loop() -> None:
            while gids := [f"g{n}" for n in islice(numbers, BATCH)]:
                await self._sell(gids, cancel_every)

        await asyncio.gather(*(loop() for _ in range(IN_FLIGHT)))

    async def _sell(self, gids: list[str], cancel_every: int) -> None:
        found = await self._execute((TRY, gid) for gid in gids)
        self.ended.update(reason for reason in found.values() if reason)
        reserved = [gid for gid, reason in found.items() if not reason]
        cancelled = reserved[::cancel_every] if cancel_every else []
        confirmed = [gid for gid in reserved if gid not in set(cancelled)]
        for operation, which in ((CONFIRM, confirmed), (CANCEL, cancelled)):
            done = await self._execute((operation, gid) for gid in which)
            assert set(done.values()) <= {""}
            self.ended[common.Operation.Name(operation)] += len(which)

    async def _execute(self, wanted: Iterable[tuple[int, str]]) -> dict[str, str]:
        """Return the reason of each branch that did not succeed, and an empty one of each that did."""
        calls = [call(operation, gid, "reserve_stock", PAYLOAD) for operation, gid in wanted]
        found: dict[str, str] = {}
        attempt = 0
        while calls:
            request = pb.ExecuteBranchesRequest(calls=calls)
            self._turn += 1
            try:
                async for response in self._stubs[self._turn % PROCESSES].ExecuteBranches(
                    request, timeout=60
                ):
                    for outcome in response.results:
                        if outcome.code != common.OUTCOME_CODE_FAILED:
                            found[calls[outcome.index].gid] = outcome.reason
            except grpc.aio.AioRpcError:
                assert attempt < 100
            attempt += 1
            calls = [each for each in calls if each.gid not in found]
            for each in calls:
                each.attempt = attempt
        return found


@pytest.fixture
async def redis(home: Path) -> AsyncIterator[Redis]:
    server = Redis(home)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def sale(redis: Redis, database: AsyncEngine, database_url: str, tmp_path: Path, request: Any) -> Any:
    async with database.begin() as db:
        await restock(db, "opening", {"hot": STOCK})
    async with AsyncExitStack() as stack:
        children, stubs = [], []
        for n in range(PROCESSES):
            child = await Child.start(
                f"inventory-{n}",
                *(sys.executable, "-m", "participants.inventory", "--database", database_url),
                *("--redis", redis.url, *request.param),
                log=tmp_path / f"inventory-{n}.log",
            )
            stack.push_async_callback(child.stop, any_status=True)
            children.append(child)
        for child in children:
            [address] = await child.lines(r"listening on (\S+)")
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            stubs.append(pb_grpc.ParticipantServiceStub(channel))
        yield Sale(children, stubs)


async def stock(database: AsyncEngine) -> tuple[int, int, int]:
    async with database.connect() as db:
        [row] = await db.execute(text("SELECT available, reserved, sold FROM stock"))
    return tuple(row)


# With the default settings.
@pytest.mark.parametrize("sale", [()], indirect=True)
async def test_a_sale_sells_all_and_most_refusals_never_reach_the_database(
    sale: Sale, database: AsyncEngine
) -> None:
    await sale.sell(1, cancel_every=1)  # before the sale begins, the SKU is in Redis
    await sale.sell(ORDERS)
    assert await stock(database) == (0, 0, STOCK)
    assert sale.ended == {"OPERATION_CONFIRM": STOCK, "OPERATION_CANCEL": 1, "SOLD_OUT": ORDERS - STOCK}
    for child in sale.children:
        await child.stop()
    # Each Try that reaches the database writes its row of the barrier, and deletes it when it is refused.
    async with database.connect() as db:
        [(rows,)] = await db.execute(
            text("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'tcc_barrier'")
        )
    refused_there = rows - STOCK - 1
    print(json.dumps({**sale.ended, "refused by the database": refused_there}))
    assert 0 <= refused_there <= 0.1 * (ORDERS - STOCK)


# No gate of their own: what is refused, Redis refuses.
@pytest.mark.parametrize("sale", [("--ceiling-s", "0", "--sync-back-s", "0.5")], indirect=True)
async def test_no_loss_of_redis_sells_twice_or_loses_stock(
    sale: Sale, redis: Redis, database: AsyncEngine
) -> None:
    await sale.sell(300, cancel_every=3)
    redis.copy_data()
    await sale.sell(300, cancel_every=3)

    async def during(orders: int, trouble: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sale.sell(orders, cancel_every=3))
            tasks.create_task(trouble)

    async def pause() -> None:
        redis.signal(signal.SIGSTOP)
        await asyncio.sleep(5)
        redis.signal(signal.SIGCONT)

    async def kill_a_process() -> None:
        sale.children[0].kill()
        await sale.children[0].ended()

    for orders, trouble in (
        (300, redis.lose_everything()),
        (300, redis.go_back()),
        (300, kill_a_process()),
        (3_000, pause()),
    ):
        await during(orders, trouble)
        await repaired(sale, redis, database)
    async with asyncio.timeout(60):
        while (await stock(database))[0]:
            await sale.sell(BATCH)
    assert await stock(database) == (0, 0, STOCK)
    assert sale.ended["OPERATION_CONFIRM"] == STOCK
    print(dict(sale.ended))


async def repaired(sale: Sale, redis: Redis, database: AsyncEngine) -> None:
    """Wait until Redis has as many tokens as the database has stock, which cancelled orders ask for."""
    counts = Tokens(redis.url)
    async with asyncio.timeout(60):
        while [each.tokens for each in await counts.read(["hot"])] != [(await stock(database))[0]]:
            await sale.sell(1, cancel_every=1)
    await counts.close()
