"""The order flow: the three reference participants, filled with goods, behind a coordinator.

An order is one item, one coupon and one order record. Stock never runs out, and
each round has fresh coupons, issued before it begins: what is measured is all
successes, and anything else counts as failed.
"""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from bench import work
from bench.figures import Round
from bench.options import Options
from bench.stage import Load, Stage
from participants.coupon.store import issue
from participants.inventory.store import restock

SKUS = 500
IN_FLIGHT = 256
# More than can be sold.
_STOCK = 10**9
_ORDERS_PER_SECOND_MAX = 8_000


class OrderFlow:
    """The processes, and how a round of orders is measured."""

    def __init__(self, here: Stage) -> None:
        self._here = here
        self._system = here.start_coordinator(here.start_services())
        self._rounds = 0
        fill_stock(here, "inventory")

    def measure(self, skus: int, in_flight: int, options: Options) -> Round:
        """Offers orders spread over the first `skus` SKUs."""
        self._rounds += 1
        run = f"R{self._rounds}"
        self._issue_coupons(run, options)
        load = Load(
            mode="batched", in_flight=in_flight, wait_for=options.wait_for, work=work.orders(run, skus)
        )
        return self._here.measure(self._system, load, warm_up_s=options.warm_up_s, round_s=options.seconds)

    def _issue_coupons(self, run: str, options: Options) -> None:
        # The counters are read, and what is under way is finished, in a second more.
        count = round(_ORDERS_PER_SECOND_MAX * (options.warm_up_s + options.seconds + 1.0))
        coupon_ids = [work.coupon_id(run, number) for number in range(count)]
        _write(self._here, "coupon", lambda db: issue(db, coupon_ids))
        # As after any bulk load; otherwise the server does it in the middle of the round.
        with psycopg.connect(self._here.url("coupon"), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE coupon")


def fill_stock(here: Stage, database: str) -> None:
    """Plenty of every SKU, in the database of an inventory that runs."""
    quantities = {work.sku(number): _STOCK for number in range(SKUS)}
    _write(here, database, lambda db: restock(db, "opening", quantities))


def _write(here: Stage, database: str, do: Callable[[AsyncConnection], Awaitable[object]]) -> None:
    async def write() -> None:
        engine = create_async_engine(here.url(database).replace("postgresql:", "postgresql+psycopg:", 1))
        async with engine.begin() as db:
            await do(db)
        await engine.dispose()

    asyncio.run(write())
