"""The inventory as a participant with three tiers, from the cheapest rejection to the durable change."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.inventory import store
from participants.inventory.freeze import freeze_id_of, freeze_result
from participants.inventory.gate import StockGate
from participants.inventory.partitions import partition_of
from participants.inventory.requests import ReserveStock
from participants.inventory.reservation import SOLD_OUT, Verb, admit, sold_out, stock_changes
from tcc import Branch, Participant, Rejected
from tcc._internal.uuid7 import uuid7
from tcc.payload import Encoded

if TYPE_CHECKING:
    from participants.inventory.redis_gate import RedisGate

Items = Sequence[tuple[Branch, ReserveStock]]


class Reserve:
    """The action `reserve_stock`: Try reserves, Confirm sells, Cancel releases."""

    def __init__(self, gate: StockGate) -> None:
        self._gate = gate

    def screen(self, request: ReserveStock) -> Rejected | None:
        """Tier 1."""
        is_refused = self._gate.refuses(request.sku, request.quantity)
        return sold_out(request.sku, request.quantity) if is_refused else None

    def partition_key(self, request: ReserveStock) -> int:
        """Tier 2."""
        return partition_of(request.sku)

    def try_result(self, _branch: Branch, _request: ReserveStock) -> Encoded:
        """Return a new freeze id for the reservation that this Try may get."""
        return freeze_result(uuid7())

    async def try_batch(self, items: Items, db: AsyncConnection) -> list[Rejected | None]:
        """Tier 3: write a reservation with its freeze id for each admitted request."""
        requests = [request for _, request in items]
        tickets = {sku: self._gate.ticket(sku) for sku in {request.sku for request in requests}}
        available = await store.stock_lock(db, tickets)
        answers = admit(requests, available)
        short = {request.sku for request, answer in zip(requests, answers, strict=True) if answer is not None}
        for sku in available:
            if sku in short:
                self._gate.ran_short(sku, available[sku], tickets[sku])
            else:
                self._gate.sufficed(sku)
        admitted = [item for item, answer in zip(items, answers, strict=True) if answer is None]
        if admitted:
            await self._reserve(admitted, db)
        return answers

    async def _reserve(self, items: Items, db: AsyncConnection) -> None:
        new = [
            store.NewReservation(
                branch.gid,
                branch.branch_id,
                freeze_id_of(branch.try_result),
                request.sku,
                request.quantity,
            )
            for branch, request in items
        ]
        moved = [(request.sku, request.quantity) for _, request in items]
        await store.reserve(db, new, stock_changes(Verb.RESERVE, moved))

    async def confirm_batch(self, items: Items, db: AsyncConnection) -> None:
        await self._end(Verb.CONFIRM, items, db)

    async def cancel_batch(self, items: Items, db: AsyncConnection) -> None:
        for sku in await self._end(Verb.CANCEL, items, db):
            self._gate.reopen(sku)

    async def _end(self, verb: Verb, items: Items, db: AsyncConnection) -> set[str]:
        """Move reservations and their stock; return the SKUs. Locks are held until the commit."""
        moved = await store.reservation_move(db, [branch.key for branch, _ in items], verb)
        changes = stock_changes(verb, moved)
        await store.stock_change(db, changes)
        return {change.sku for change in changes}


class ReserveThroughRedis(Reserve):
    """The same, with a gate that all processes share before the database."""

    def __init__(self, gate: StockGate, shared: "RedisGate") -> None:
        super().__init__(gate)
        self._shared = shared

    async def screen_batch(self, items: Items) -> list[Rejected | None]:
        """Tier 1 of all processes. What it refuses, this process refuses for a moment without asking."""
        tickets = {sku: self._gate.ticket(sku) for sku in {request.sku for _, request in items}}
        answers = await self._shared.screen(items)
        refused: dict[str, int] = {}
        for (_, request), answer in zip(items, answers, strict=True):
            if answer is not None and answer.reason == SOLD_OUT:
                refused[request.sku] = min(request.quantity, refused.get(request.sku, request.quantity))
        for sku, quantity in refused.items():
            self._gate.ran_short(sku, quantity - 1, tickets[sku])
        return answers

    async def tried_batch(self, succeeded: Items, unsuccessful: Items) -> None:
        self._shared.landed(succeeded)
        if unsuccessful:
            await self._shared.give_back([branch.key for branch, _ in unsuccessful])

    async def cancel_batch(self, items: Items, db: AsyncConnection) -> None:
        """Give back in Redis as well, under the rows' locks: a comparison sees both or neither."""
        await super().cancel_batch(items, db)
        await self._shared.give_back([branch.key for branch, _ in items])


def inventory(
    database: AsyncEngine, *, gate: StockGate | None = None, shared: "RedisGate | None" = None
) -> Participant:
    """Return the participant over its database, whose schema must exist. `shared`: a gate in Redis."""
    participant = Participant("inventory", database=database)
    gate = gate or StockGate()
    reserve = Reserve(gate) if shared is None else ReserveThroughRedis(gate, shared)
    participant.action("reserve_stock", ReserveStock, needs_request=False)(reserve)
    return participant
