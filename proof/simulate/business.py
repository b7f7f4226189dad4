"""The business of the simulated participants: accounts from which quantities are reserved and taken.

Each handler also notes its effect in a table, in the same local transaction and
without any key that could hide a second one: that table says what really happened.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proof.simulate.participant_database import LocalTransaction
from tcc.branch import BatchItem, Branch, Rejected
from tcc.participant.participant import Participant

# By kind.
ACTIONS = {"tcc": "move", "saga": "spend", "message": "notify"}
PARTITIONS = 4

_RESERVE = """UPDATE accounts SET available = available - :quantity, reserved = reserved + :quantity
              WHERE name = :account AND available >= :quantity"""
_TAKE = "UPDATE accounts SET reserved = reserved - :quantity, taken = taken + :quantity WHERE name = :account"
_GIVE_BACK = """UPDATE accounts SET reserved = reserved - :quantity, available = available + :quantity
                WHERE name = :account"""
_SPEND = """UPDATE accounts SET available = available - :quantity, taken = taken + :quantity
            WHERE name = :account AND available >= :quantity"""
_REFUND = (
    "UPDATE accounts SET taken = taken - :quantity, available = available + :quantity WHERE name = :account"
)
_NOTE = (
    "INSERT INTO effects (gid, branch_id, operation, account, quantity, kind) "
    "VALUES (:gid, :branch_id, :operation, :account, :quantity, :kind)"
)


class HandlerError(Exception):
    """A handler's own bug or bad day: nothing that the barrier knows of."""


class Business:
    """The three functions of an author. `fails` is the chance that one raises."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.fails = 0.0

    async def try_(
        self, branch: Branch, request: Any, db: LocalTransaction
    ) -> dict[str, Any] | Rejected | None:
        if not await db.execute(_RESERVE, request):
            raise Rejected("SOLD_OUT", request["account"])
        await self._note(branch, "TRY", request, db)
        return {"account": request["account"]} if request["quantity"] % 2 else None

    async def confirm(self, branch: Branch, request: Any, db: LocalTransaction) -> None:
        await db.execute(_TAKE, request)
        await self._note(branch, "CONFIRM", request, db)

    async def cancel(self, branch: Branch, request: Any, db: LocalTransaction) -> None:
        await db.execute(_GIVE_BACK, request)
        await self._note(branch, "CANCEL", request, db)

    async def execute(
        self, branch: Branch, request: Any, db: LocalTransaction
    ) -> dict[str, Any] | Rejected | None:
        if not await db.execute(_SPEND, request):
            raise Rejected("NO_FUNDS", request["account"])
        await self._note(branch, "TRY", request, db, "SAGA")
        return {"account": request["account"]} if request["quantity"] % 2 else None

    async def compensate(self, branch: Branch, request: Any, db: LocalTransaction) -> None:
        await db.execute(_REFUND, request)
        await self._note(branch, "CANCEL", request, db, "SAGA")

    async def deliver(self, branch: Branch, request: Any, db: LocalTransaction) -> None:
        """Move nothing: it is only noted."""
        await self._note(branch, "CONFIRM", {**request, "quantity": 0}, db, "MESSAGE")

    async def _note(
        self, branch: Branch, operation: str, request: Any, db: LocalTransaction, kind: str = "TCC"
    ) -> None:
        if self._rng.random() < self.fails:
            raise HandlerError("a bad day")
        values = {"gid": branch.gid, "branch_id": branch.branch_id, "operation": operation, "kind": kind}
        await db.execute(_NOTE, values | {"account": request["account"], "quantity": request["quantity"]})


async def note_local_change(gid: str, branch_id: str, db: LocalTransaction) -> None:
    """Note an initiator's own change, in its local transaction."""
    values = {"gid": gid, "branch_id": branch_id, "operation": "TRY", "kind": "LOCAL"}
    await db.execute(_NOTE, values | {"account": "", "quantity": 0})


class BatchBusiness:
    """The same with a handler for whole batches, and lanes."""

    def __init__(self, business: Business) -> None:
        self._business = business

    def partition_key(self, request: Any) -> int:
        return len(request["account"]) % PARTITIONS

    async def try_batch(self, items: Sequence[BatchItem], db: LocalTransaction) -> list[Any]:
        return await self._tried(self._business.try_, items, db)

    async def execute_batch(self, items: Sequence[BatchItem], db: LocalTransaction) -> list[Any]:
        return await self._tried(self._business.execute, items, db)

    async def _tried(
        self, handler: Callable[..., Awaitable[Any]], items: Sequence[BatchItem], db: LocalTransaction
    ) -> list[Any]:
        answers: list[Any] = []
        for branch, request in items:
            try:
                answers.append(await handler(branch, request, db))
            except Rejected as no:
                answers.append(no)
        return answers

    async def confirm_batch(self, items: Sequence[BatchItem], db: LocalTransaction) -> None:
        for branch, request in items:
            await self._business.confirm(branch, request, db)

    async def cancel_batch(self, items: Sequence[BatchItem], db: LocalTransaction) -> None:
        for branch, request in items:
            await self._business.cancel(branch, request, db)

    async def compensate_batch(self, items: Sequence[BatchItem], db: LocalTransaction) -> None:
        for branch, request in items:
            await self._business.compensate(branch, request, db)

    async def deliver_batch(self, items: Sequence[BatchItem], db: LocalTransaction) -> None:
        for branch, request in items:
            await self._business.deliver(branch, request, db)


async def serve(
    participant: Participant, business: Business, address: str, *, batched: bool, stopped: asyncio.Event
) -> None:
    """A participant's process, until it is asked to stop."""
    handlers = BatchBusiness(business) if batched else business
    participant.action(ACTIONS["tcc"], dict)(handlers)
    participant.saga(ACTIONS["saga"], dict)(handlers)
    participant.message(ACTIONS["message"], dict)(handlers)
    await participant.create_schema()
    await participant.start(address, insecure=True)  # the simulated network has no TLS
    await stopped.wait()
    await participant.stop()
