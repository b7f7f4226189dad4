"""Every batch locks its rows in key order, whatever the order of its items and of the table.

Another transaction locks `a`. A batch over `b` and `a`, in that order, waits for it and must
not lock `b` in the meantime: two such batches could wait for each other.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.coupon.store import coupon_lock, issue
from participants.inventory.store import StockChange, restock, stock_change, stock_lock
from participants.locks.requests import Acquire
from participants.locks.store import enqueue

Batch = Callable[[AsyncConnection], Awaitable[object]]

BOTH = Acquire(keys=frozenset({"a", "b"}))
BATCHES: dict[str, tuple[str, Batch]] = {
    "stock_lock": ("stock WHERE sku", lambda db: stock_lock(db, ["b", "a"])),
    "stock_change": (
        "stock WHERE sku",
        lambda db: stock_change(db, [StockChange("b", -1, 1, 0), StockChange("a", -1, 1, 0)]),
    ),
    "enqueue": (
        "lock_key WHERE name",
        lambda db: enqueue(db, [(("g1", "b"), BOTH), (("g2", "b"), BOTH)], now_ms=0),
    ),
    "coupon_lock": ("coupon WHERE coupon_id", lambda db: coupon_lock(db, ["b", "a"])),
}

_WAITING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def somebody_waits(database: AsyncEngine) -> None:
    async with asyncio.timeout(60):
        while True:
            async with database.connect() as db:
                if await db.scalar(_WAITING):
                    return


@pytest.mark.parametrize("name", BATCHES)
async def test_a_batch_that_waits_for_the_first_key_holds_no_later_one(
    name: str, database: AsyncEngine
) -> None:
    rows, batch = BATCHES[name]
    for key in ("b", "a"):  # in this order in the table
        async with database.begin() as db:
            await restock(db, key, {key: 5})
            await issue(db, [key])
            await enqueue(db, [((key, "b"), Acquire(keys=frozenset({key})))], now_ms=0)

    async def run_batch() -> None:
        async with database.begin() as db:
            await batch(db)

    async with database.connect() as holder:
        await holder.execute(text(f"SELECT 1 FROM {rows} = 'a' FOR UPDATE"))
        running = asyncio.create_task(run_batch())
        await somebody_waits(database)
        async with database.connect() as other:
            await other.execute(text(f"SELECT 1 FROM {rows} = 'b' FOR UPDATE NOWAIT"))
    await running
