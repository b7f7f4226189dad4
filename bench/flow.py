"""The order flow: three reference participants, filled with goods, behind a coordinator.

An order is one item, one coupon and one order record. Stock never runs out, and each round
has fresh coupons, issued before it begins. Every order can succeed; any other outcome counts
as failed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from bench import work
from bench.figures import Round
from bench.options import Options
from bench.stage import Load, Stage
from participants.coupon.store import issue
from participants.inventory.store import restock

IN_FLIGHT = 256
# More than can be sold.
_STOCK = 10**9
_ORDERS_PER_SECOND_MAX = 8_000


class OrderFlow:
    """A system that takes orders."""

    def __init__(self, here: Stage, options: Options) -> None:
        self._here = here
        self._options = options
        self._system = here.start_coordinator(here.start_services())
        self._rounds = 0
        fill_stock(here, "inventory")

    def measure(self, in_flight: int) -> Round:
        """Offer orders for one round."""
        options = self._options
        self._rounds += 1
        run = f"R{self._rounds}"
        # Reading the counters and finishing what is under way takes up to a second more.
        count = round(_ORDERS_PER_SECOND_MAX * (options.warm_up_s + options.seconds + 1.0))
        _issue_coupons(self._here, [work.coupon_id(run, number) for number in range(count)])
        load = Load(mode="batched", in_flight=in_flight, wait_for=options.wait_for, work=work.orders(run))
        return self._here.measure(self._system, load)


def fill_stock(here: Stage, database: str) -> None:
    """Fill the database of a running inventory with plenty of every SKU."""
    quantities = {work.sku(number): _STOCK for number in range(work.SKUS)}
    _write(here, database, lambda db: restock(db, "opening", quantities))


def _issue_coupons(here: Stage, coupon_ids: Sequence[str]) -> None:
    _write(here, "coupon", lambda db: issue(db, coupon_ids))
    # As after any bulk load; otherwise the server does it in the middle of the round.
    with psycopg.connect(here.url("coupon"), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE coupon")


def _write(here: Stage, database: str, do: Callable[[AsyncConnection], Awaitable[object]]) -> None:
    async def write() -> None:
        engine = create_async_engine(here.url(database).replace("postgresql:", "postgresql+psycopg:", 1))
        async with engine.begin() as db:
            await do(db)
        await engine.dispose()

    asyncio.run(write())
