"""An endless sequence of the demo's orders, with the requests and replies of their initiators."""

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from sqlalchemy import NullPool
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from participants.coupon.store import issue
from participants.demo.initiator import EXPIRY_S, ORDER, OrderResult, branches, place
from participants.demo.plan import InitiatorFault, Plan, PlannedOrder, make_plan
from participants.inventory.store import restock
from proof.faults.tenants import TENANTS, tenant_of
from proof.history.events import Reply, ReplyOutcome, Request, Verb
from proof.history.recorder import Recorder
from tcc import Participant
from tcc.client.client import Client

_CHUNK = 300
_CONNECTIONS = 8
_SEEDS = 10**9
_FILL_TIMEOUT_S = 60.0
_FILL_PAUSE_S = 0.2
_numbers = itertools.count()


def renamed(plan: Plan, prefix: str) -> Plan:
    """The same plan with orders and coupons of its own; SKUs are everybody's. The tenants take turns."""
    return replace(
        plan,
        orders=tuple(
            replace(
                order,
                gid=f"{tenant}-{prefix}-{order.gid}",
                coupon_id=order.coupon_id and f"{prefix}-{order.coupon_id}",
            )
            for order, tenant in zip(plan.orders, itertools.cycle(TENANTS), strict=False)
        ),
        coupons=tuple(f"{prefix}-{coupon}" for coupon in plan.coupons),
    )


class Warehouse:
    """Puts into stock what the orders of plans need."""

    def __init__(self, inventory_url: str, coupon_url: str) -> None:
        self._inventory = create_async_engine(inventory_url, poolclass=NullPool)
        self._coupon = create_async_engine(coupon_url, poolclass=NullPool)

    async def fill(self, plan: Plan, name: str) -> None:
        """Fill once for each delivery `name`. Wait for databases that are unavailable."""
        async with asyncio.timeout(_FILL_TIMEOUT_S):
            while not await self._is_filled(plan, name):  # noqa: ASYNC110 - databases send no event
                await asyncio.sleep(_FILL_PAUSE_S)

    async def _is_filled(self, plan: Plan, name: str) -> bool:
        try:
            async with self._inventory.begin() as db:
                await restock(db, name, plan.stock)
            async with self._coupon.begin() as db:
                await issue(db, plan.coupons)
        except OperationalError:
            return False
        return True

    async def close(self) -> None:
        engines: list[AsyncEngine] = [self._inventory, self._coupon]
        for engine in engines:
            await engine.dispose()


async def orders(
    warehouse: Warehouse, name: str, chance: random.Random, *, patient_only: bool = False
) -> AsyncGenerator[PlannedOrder, None]:
    """One order after the other. `patient_only`: no initiator fails its own order by vanishing or haste."""
    for number in itertools.count():
        prefix = f"{name}-{number}"
        plan = renamed(make_plan(orders=_CHUNK, seed=chance.randrange(_SEEDS)), prefix)
        await warehouse.fill(plan, prefix)
        for order in plan.orders:
            if patient_only and order.initiator_fault is InitiatorFault.VANISHES:
                continue
            yield replace(order, local_expiry_s=EXPIRY_S) if patient_only else order


@asynccontextmanager
async def order_service(database_url: str) -> AsyncIterator[Participant]:
    """The order service of this process, which commits some orders itself."""
    database = create_async_engine(database_url, pool_size=_CONNECTIONS, max_overflow=0)
    try:
        yield Participant(ORDER, database=database)
    finally:
        await database.dispose()


async def place_and_record(
    order: PlannedOrder,
    client: Client,
    other: Client,
    order_service: Participant,
    *,
    recorder: Recorder,
    initiator: str,
) -> OrderResult:
    """Place an order, and record it as one request, which it is for the customer."""
    request = f"{initiator}/{os.getpid()}/{next(_numbers)}"
    verb = _VERBS[order.initiator_fault]
    content = f"{order.sku}/{order.quantity}/{order.coupon_id}"
    recorder.record(
        Request(
            at=time.time(),
            request=request,
            initiator=initiator,
            verb=verb,
            gid=order.gid,
            digest=content if verb is Verb.EXECUTE else "",
            branch_ids=tuple(branch.participant for branch in branches(order)),
            tenant=tenant_of(order.gid),
        )
    )
    placed = await place(order, client, other, order_service)
    recorder.record(
        Reply(
            at=time.time(),
            request=request,
            gid=order.gid,
            outcome=_outcome(order, placed),
            reason=placed.error,
        )
    )
    return placed


_VERBS = {
    InitiatorFault.ONE_SHOT: Verb.EXECUTE,
    InitiatorFault.LOST_ANSWER: Verb.EXECUTE,
    InitiatorFault.LOCAL_FIRST: Verb.CONFIRM,
    InitiatorFault.CHANGES_MIND: Verb.CANCEL,
    InitiatorFault.VANISHES: Verb.BEGIN,
}


def _outcome(order: PlannedOrder, placed: OrderResult) -> ReplyOutcome:
    if placed.error:
        return ReplyOutcome.UNKNOWN
    if placed.confirmed is None:
        return (
            ReplyOutcome.ACCEPTED
            if order.initiator_fault is InitiatorFault.VANISHES
            else ReplyOutcome.UNKNOWN
        )
    return ReplyOutcome.CONFIRMED if placed.confirmed else ReplyOutcome.CANCELLED
