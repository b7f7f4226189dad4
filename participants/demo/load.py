"""All orders of a plan, placed concurrently, and the kills between them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from participants.demo.cluster import Cluster, Death
from participants.demo.initiator import INITIATOR, OrderResult
from participants.demo.plan import CHECKOUTS, Plan, PlannedKill, PlannedOrder
from tcc.client.client import Client
from tcc.client.outcome import TransactionRecord, TransactionState
from tcc.errors import NotFound

INITIATORS = 128
_LIVE = (TransactionState.TRYING, TransactionState.CONFIRMING, TransactionState.CANCELLING)
_SETTLE_TIMEOUT_S = 60.0
_SETTLE_POLL_S = 0.1
_PAGE_SIZE = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """A kill that was carried out. `at_s`: seconds since the first order."""

    death: Death
    after_orders: int
    at_s: float
    # The time when its replacement was ready.
    back_pid: int
    back_after_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadResult:
    """The result, with the seconds until all orders were placed and until no transaction was live."""

    placed: list[OrderResult]
    kills: list[Kill]
    # By `time.monotonic()`.
    started_at: float
    placed_s: float
    settled_s: float
    records: list[TransactionRecord]


async def run_load(
    plan: Plan, cluster: Cluster, *, on_order: Callable[[OrderResult], None], on_kill: Callable[[str], None]
) -> LoadResult:
    """Place all orders, with the kills, and wait until every transaction has ended, at most a minute.

    Raises:
        ChildError: A process ended unexpectedly, or a killed one was not restarted.
    """
    started = time.monotonic()
    placed: list[OrderResult] = []
    orders = iter(enumerate(plan.orders))
    killer = _ProcessKiller(plan.kills, cluster, started, on_kill)

    async def place_some() -> None:
        for number, order in orders:
            result = await _place(order, CHECKOUTS[number % len(CHECKOUTS)], cluster, client)
            placed.append(result)
            on_order(result)
            killer.orders_done(len(placed))

    async with Client(cluster.address) as client, killer.restarting():
        async with asyncio.TaskGroup() as initiators:
            for _ in range(INITIATORS):
                initiators.create_task(place_some())
        placed_s = time.monotonic() - started
        kills = await killer.finish()
        await _settle(client)
        settled_s = time.monotonic() - started
        records = [record async for record in client.list(initiator=INITIATOR, page_size=_PAGE_SIZE)]
    return LoadResult(
        placed=placed,
        kills=kills,
        started_at=started,
        placed_s=placed_s,
        settled_s=settled_s,
        records=records,
    )


async def _place(order: PlannedOrder, checkout: str, cluster: Cluster, client: Client) -> OrderResult:
    """Place an order. If its checkout dies, the customer asks again, unless the order service is asked."""
    while (result := await cluster.place(checkout, order)) is None:
        if order.is_local_first and await _is_begun(order, client):
            return OrderResult(gid=order.gid)
    return result


async def _is_begun(order: PlannedOrder, client: Client) -> bool:
    try:
        await client.get(order.gid)
    except NotFound:
        return False
    return True


class _ProcessKiller:
    """Carries out the kills at their time, and waits for the restarts."""

    def __init__(
        self,
        planned: tuple[PlannedKill, ...],
        cluster: Cluster,
        started: float,
        on_kill: Callable[[str], None],
    ) -> None:
        self._planned = sorted(planned, key=lambda kill: kill.after_orders)
        self._cluster = cluster
        self._started = started
        self._on_kill = on_kill
        self._kills: list[asyncio.Task[Kill]] = []

    def orders_done(self, count: int) -> None:
        while self._planned and self._planned[0].after_orders <= count:
            at_s = time.monotonic() - self._started
            death = self._cluster.kill(self._planned.pop(0))
            self._on_kill(f"killed {death.victim} (pid {death.pid}) after {count} orders")
            self._kills.append(asyncio.create_task(self._await_restart(death, count, at_s)))

    @asynccontextmanager
    async def restarting(self) -> AsyncIterator[None]:
        """Wait for restarts during the block; cancel the waits at its end."""
        try:
            yield
        finally:
            for kill in self._kills:
                kill.cancel()
            await asyncio.gather(*self._kills, return_exceptions=True)

    async def finish(self) -> list[Kill]:
        """Wait until every killed process has been restarted, and return the kills."""
        return list(await asyncio.gather(*self._kills))

    async def _await_restart(self, death: Death, after_orders: int, at_s: float) -> Kill:
        back_pid = await self._cluster.is_back(death)
        back_after_s = time.monotonic() - self._started - at_s
        self._on_kill(f"{death.victim} is back (pid {back_pid}) after {back_after_s:.1f} s")
        return Kill(
            death=death, after_orders=after_orders, at_s=at_s, back_pid=back_pid, back_after_s=back_after_s
        )


async def _settle(client: Client) -> None:
    """Wait until no transaction is live, up to a limit. The rest is reported as undecided."""
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    # Other processes end them, so there is no event to wait for.
    while await _any_live(client) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_SETTLE_POLL_S)


async def _any_live(client: Client) -> bool:
    async for _ in client.list(states=_LIVE, initiator=INITIATOR, page_size=1):
        return True
    return False
