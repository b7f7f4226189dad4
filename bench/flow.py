"""The order flow: three reference participants, filled with goods, behind a coordinator; and its baseline.

An order is one item, one coupon and one order record. Stock never runs out, and
each round has fresh coupons, issued before it begins: what is measured is all
successes, and anything else counts as failed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from bench import work
from bench.batches import batches
from bench.figures import Round
from bench.options import Options
from bench.stage import Load, Stage, System, baseline_database
from participants.coupon.store import issue
from participants.inventory.store import restock

SKUS = 500
IN_FLIGHT = 256
# More than can be sold.
_STOCK = 10**9
_ORDERS_PER_SECOND_MAX = 8_000


class OrderFlow:
    """A system that takes orders, and how a round of them is measured.

    `database_of` names the database of each participant.
    """

    def __init__(self, here: Stage, system: System, database_of: Callable[[str], str]) -> None:
        self._here = here
        self._system = system
        self._database_of = database_of
        self._rounds = 0
        fill_stock(here, database_of("inventory"))

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
        issue_coupons(self._here, self._database_of("coupon"), coupon_ids)


class BaselineFlow(OrderFlow):
    """The baseline of the order flow: the baseline program and what stands for the participants."""

    def __init__(self, here: Stage) -> None:
        participants = here.start_baseline_services()
        system, self._coordinator = here.start_baseline(participants)
        self._participants = participants.counting
        super().__init__(here, system, baseline_database)

    def take_batches(self, measured: Round) -> None:
        """Tells everybody which batches were made in that round."""
        sizes = batches(measured)
        self._coordinator.ask("batches", rows=sizes.rows, calls=sizes.calls)
        for participant in self._participants:
            participant.ask("batches", branches=sizes.branches)


class Flows:
    """The order flow and, if it is wanted, its baseline."""

    def __init__(self, here: Stage, options: Options) -> None:
        self._options = options
        self._real = OrderFlow(here, here.start_coordinator(here.start_services()), str)
        self._baseline = BaselineFlow(here) if options.baseline else None

    def measure(self, skus: int, in_flight: int) -> tuple[Round, list[Round]]:
        """A round, and one of the baseline with the same batches after it."""
        measured = self._real.measure(skus, in_flight, self._options)
        if self._baseline is None:
            return measured, []
        self._baseline.take_batches(measured)
        return measured, [self._baseline.measure(skus, in_flight, self._options)]


def fill_stock(here: Stage, database: str) -> None:
    """Plenty of every SKU, in the database of an inventory that runs."""
    quantities = {work.sku(number): _STOCK for number in range(SKUS)}
    _write(here, database, lambda db: restock(db, "opening", quantities))


def issue_coupons(here: Stage, database: str, coupon_ids: Sequence[str]) -> None:
    """Fresh coupons, in the database of a coupon service that runs."""
    _write(here, database, lambda db: issue(db, coupon_ids))
    # As after any bulk load; otherwise the server does it in the middle of the round.
    with psycopg.connect(here.url(database), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE coupon")


def _write(here: Stage, database: str, do: Callable[[AsyncConnection], Awaitable[object]]) -> None:
    async def write() -> None:
        engine = create_async_engine(here.url(database).replace("postgresql:", "postgresql+psycopg:", 1))
        async with engine.begin() as db:
            await do(db)
        await engine.dispose()

    asyncio.run(write())
