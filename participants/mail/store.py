"""The receipts that were sent."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Column, Index, MetaData, Table, Text, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

metadata = MetaData()
_key = Text(collation="C")

# No unique key: the audit must see what the barrier has prevented.
receipt = Table(
    "receipt",
    metadata,
    Column("gid", _key, nullable=False),
    Column("branch_id", _key, nullable=False),
    Column("order_id", Text, nullable=False),
    Index("receipt_key", "gid", "branch_id"),
)


class Receipt(NamedTuple):
    """A row of `receipt`."""

    gid: str
    branch_id: str
    order_id: str


RECEIPTS = select(receipt.c.gid, receipt.c.branch_id, receipt.c.order_id)


async def write(db: AsyncConnection, receipts: Sequence[Receipt]) -> None:
    """Write receipts."""
    await db.execute(insert(receipt), [each._asdict() for each in receipts])
