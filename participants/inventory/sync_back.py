"""Sync-back: compare the counts in Redis with the database, and correct them.

Without drift, the tokens of a SKU are its available stock in the database, less what Trys have taken in
Redis and not yet committed. They are compared under the lock of the SKU's row, so that nothing is
committed in the meantime: a branch in flight has a reservation that can be seen, or waits for the lock.
A branch that has none after `flight_max_s` is taken for dead (its process has crashed).

A correction is a difference, so it keeps what is taken and given back at the same time, and it counts
only in the epoch in which it was computed. So a process that was paused corrects nothing, and neither does
one whose Redis has lost the SKU in the meantime.

If a branch taken for dead commits after all, or gives back later, there are too many tokens: the
database refuses, and the next comparison takes them away.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.inventory import store
from participants.inventory.gate_metrics import GateMetrics
from participants.inventory.store import Key
from participants.inventory.tokens import UNAVAILABLE, Correction, Count, Tokens, is_about_contents

logger = logging.getLogger(__name__)

_SKUS_MAX = 64
# How long rows are locked for a call of Redis.
_LOCKED_MAX_S = 0.2


class SyncBack:
    """Compares SKUs. Every process may do so: each SKU is compared by one of them at a time.

    Args:
        interval_s: How often each SKU is compared.
        flight_max_s: How long a Try may take before it is taken for dead.
    """

    def __init__(
        self,
        counts: Tokens,
        database: AsyncEngine,
        metrics: GateMetrics,
        *,
        interval_s: float = 1.0,
        flight_max_s: float = 10.0,
    ) -> None:
        self._counts = counts
        self._database = database
        self._metrics = metrics
        self._interval_s = interval_s
        self._flight_max_s = flight_max_s

    async def compare(self, skus: Sequence[str]) -> None:
        """Compare these SKUs and correct Redis; load those that it does not have.

        A SKU of which Redis holds what the gate has not written is removed, and affects no other.
        """
        try:
            await self._compare(skus)
        except (*UNAVAILABLE, ValueError) as error:
            if not is_about_contents(error):
                raise
            if len(skus) > 1:
                for sku in skus:
                    await self.compare([sku])
                return
            logger.warning(
                "SKU %s is removed from Redis, to be loaded again: its keys are wrong: %r", *skus, error
            )
            await self._counts.forget(*skus)

    async def _compare(self, skus: Sequence[str]) -> None:
        async with self._database.begin() as db:
            available = await store.stock_lock(db, skus)
            async with asyncio.timeout(_LOCKED_MAX_S):
                counts = await self._counts.read(skus)
            reserved = await store.reserved(db, _branches(counts))
            corrections = [
                correction(count, available, reserved, flight_max_s=self._flight_max_s) for count in counts
            ]
            async with asyncio.timeout(_LOCKED_MAX_S):
                done = await self._counts.correct(corrections)
        for count, change, is_done in zip(counts, corrections, done, strict=True):
            if is_done and count.tokens is not None and not change.is_unknown:
                self._metrics.corrected(change.units)

    async def run(self) -> None:
        """Compare all SKUs again and again, until cancelled. What fails is repeated."""
        while True:
            try:
                skus = await self._counts.due(interval_s=self._interval_s, skus_max=_SKUS_MAX)
                if skus:
                    await self.compare(skus)
            except (*UNAVAILABLE, SQLAlchemyError) as error:
                logger.warning("the stock in Redis could not be compared with the database: %r", error)
                skus = []
            if len(skus) < _SKUS_MAX:
                await asyncio.sleep(self._interval_s / 4)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compare during the block. A bug ends it."""
        async with asyncio.TaskGroup() as tasks:
            comparing = tasks.create_task(self.run())
            yield
            comparing.cancel()


def correction(
    count: Count, available: Mapping[str, int], reserved: set[Key], *, flight_max_s: float
) -> Correction:
    """Return what makes a count right, under the lock of the SKU's row."""
    ended = _ended(count, reserved)
    if count.sku not in available:
        return Correction(count.sku, count.epoch, is_unknown=True)
    flying = [flight for flight in count.flights if flight.branch not in reserved]
    dead = [flight.branch for flight in flying if flight.age_s > flight_max_s]
    in_flight = sum(flight.units for flight in flying if flight.age_s <= flight_max_s)
    right = available[count.sku] - in_flight
    return Correction(count.sku, count.epoch, right - (count.tokens or 0), ended, dead)


def _branches(counts: Sequence[Count]) -> list[Key]:
    return [flight.branch for count in counts for flight in count.flights]


def _ended(count: Count, reserved: set[Key]) -> list[Key]:
    return [flight.branch for flight in count.flights if flight.branch in reserved]
