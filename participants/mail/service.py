"""Receipts as a participant: a message is delivered after the order is confirmed."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.mail import store
from participants.mail.requests import SendReceipt
from participants.mail.store import Receipt
from tcc import Branch, Participant

Items = Sequence[tuple[Branch, SendReceipt]]


class Send:
    """The action `send_receipt`. A row stands for the mail."""

    async def deliver_batch(self, items: Items, db: AsyncConnection) -> None:
        await store.write(
            db, [Receipt(branch.gid, branch.branch_id, request.order_id) for branch, request in items]
        )


def mail(database: AsyncEngine) -> Participant:
    """Return the participant over its database, whose schema must exist."""
    participant = Participant("mail", database=database)
    participant.message("send_receipt", SendReceipt)(Send)
    return participant
