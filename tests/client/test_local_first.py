"""Local first with a coordinator: the initiator dies at a step, is slow, or asks for a Cancel.

Dying is leaving everything as it is: the local transaction is rolled back by its database, and
nothing more is requested. `python -m proof.local_first` kills real processes, also late and never back.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from tcc import Participant
from tcc.client.interactive import InteractiveTransaction
from tcc.client.outcome import TransactionState
from tests.support.ports import free_port
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for

EXPIRY_S = 1.5


class Killed(BaseException):
    """The initiator's process is gone."""


class Shop:
    """An order service that buys local first, the inventory, and a coordinator."""

    def __init__(self, client: tcc.Client, database_url: str, inventory: ScriptedParticipant) -> None:
        self.client = client
        url = make_url(database_url).set(drivername="postgresql+psycopg")
        self.engine = create_async_engine(url)
        self.orders = Participant("order", database=self.engine)
        self.inventory = inventory
        self._reader = create_engine(url)

    async def begin(self) -> InteractiveTransaction:
        await self.orders.create_schema()
        async with self.engine.begin() as db:
            await db.execute(text("CREATE TABLE IF NOT EXISTS orders (gid text)"))
        tx = self.client.transaction(gid="g", expiry_s=EXPIRY_S)
        await tx.begin()
        await tx.try_("inventory", "reserve_stock")
        tx.message("inventory", "tell", branch_id="message")
        return tx

    def count(self) -> int:
        with self._reader.connect() as db:
            return db.scalar(text("SELECT count(*) FROM orders")) or 0

    async def ended(self) -> TransactionState:
        outcome = await self.client.wait("g", wait_for="completion", timeout_s=60)
        calls = self.inventory.heard("g")
        if outcome.confirmed:
            assert sorted(calls) == ["CONFIRM inventory", "CONFIRM message", "TRY inventory"]
        else:
            assert sorted(calls) == ["CANCEL inventory", "TRY inventory"]
        assert self.count() == int(outcome.confirmed)  # a local commit, exactly if CONFIRM
        return outcome.state

    async def close(self) -> None:
        await self.orders.stop(0.5)
        await self.engine.dispose()
        self._reader.dispose()


INSERT = text("INSERT INTO orders VALUES ('g')")


@pytest.fixture
async def shop(database_url: str, log_url: str) -> AsyncIterator[tuple[Shop, str]]:
    """The shop, and the address at which its order service will serve."""
    address = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        inventory = ScriptedParticipant()
        tables = {
            "inventory": {"target": await stack.enter_async_context(serving(inventory))},
            "order": {"target": address},
        }
        worker = await stack.enter_async_context(running(settings_for(tables), log_url))
        client = await stack.enter_async_context(tcc.Client(worker.address))
        shop = Shop(client, database_url, inventory)
        stack.push_async_callback(shop.close)
        yield shop, address


async def test_a_run_without_a_fault(shop):
    shop, address = shop
    await shop.orders.create_schema()
    await shop.orders.start(address)
    tx = await shop.begin()
    async with tx.local(shop.orders) as db:
        await db.execute(INSERT)
    await tx.confirm()

    assert await shop.ended() is TransactionState.CONFIRMED


@pytest.mark.parametrize("step", ["registered", "in the block", "committed"])
async def test_a_death_at_a_step_ends_right(shop, step):
    shop, address = shop
    tx = await shop.begin()
    await shop.orders.start(address)
    local = tx.local(shop.orders)
    with suppress(Killed):
        if step == "registered":
            await local.register()
            raise Killed
        async with local as db:
            await db.execute(INSERT)
            if step == "in the block":
                raise Killed

    expected = TransactionState.CONFIRMED if step == "committed" else TransactionState.CANCELLED
    assert await shop.ended() is expected


async def test_an_open_local_transaction_is_waited_for(shop):
    shop, address = shop
    tx = await shop.begin()
    await shop.orders.start(address)
    async with tx.local(shop.orders) as db:
        await db.execute(INSERT)
        await until_expired(shop)
        record = await shop.client.get("g")
        assert record.state is TransactionState.TRYING

    assert await shop.ended() is TransactionState.CONFIRMED


@pytest.mark.slow
async def test_a_change_after_the_question_never_commits(shop):
    shop, address = shop
    tx = await shop.begin()
    await shop.orders.start(address)
    local = tx.local(shop.orders)
    await local.register()
    await shop.client.wait("g", timeout_s=60)

    block, plan = local.block, local.plan
    decision, _ = await block.begin(plan)
    await block.roll_back()
    assert decision.name == "LATE_TRY"
    assert await shop.ended() is TransactionState.CANCELLED


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_cancel_asks_before_it_decides(shop, is_committed):
    shop, address = shop
    tx = await shop.begin()
    await shop.orders.start(address)
    if is_committed:
        async with tx.local(shop.orders) as db:
            await db.execute(INSERT)
        with pytest.raises(tcc.errors.DecisionConflict):
            await tx.cancel()
    else:
        await tx.local(shop.orders).register()
        await shop.client.cancel("g")

    expected = TransactionState.CONFIRMED if is_committed else TransactionState.CANCELLED
    assert await shop.ended() is expected


async def until_expired(shop: Shop) -> None:
    """Wait until the coordinator has asked at least once after the expiry."""
    while not await is_asked(shop):
        with suppress(tcc.errors.DeadlineExceeded):
            await shop.client.wait("g", timeout_s=0.2)


async def is_asked(shop: Shop) -> bool:
    record = await shop.client.get("g")
    return any(branch.last_error for branch in record.branches if branch.check_back)
