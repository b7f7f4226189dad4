"""Payments as a participant: Execute charges, Compensate refunds."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.payment import store
from participants.payment.requests import ChargeCard
from participants.payment.store import CHARGED, REFUNDED, Entry
from tcc import Branch, Participant

Items = Sequence[tuple[Branch, ChargeCard]]


class Charge:
    """The action `charge`."""

    async def execute_batch(self, items: Items, db: AsyncConnection) -> None:
        await store.write(db, [_entry(CHARGED, *item) for item in items])

    async def compensate_batch(self, items: Items, db: AsyncConnection) -> None:
        await store.write(db, [_entry(REFUNDED, *item) for item in items])


def _entry(verb: str, branch: Branch, request: ChargeCard) -> Entry:
    return Entry(branch.gid, branch.branch_id, verb, request.customer_id, request.cents)


def payment(database: AsyncEngine) -> Participant:
    """Return the participant over its database, whose schema must exist."""
    participant = Participant("payment", database=database)
    participant.saga("charge", ChargeCard)(Charge)
    return participant
