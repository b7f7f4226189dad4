"""The entries of the payment service's journal: it is only added to, so no refund hides a charge."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, MetaData, Table, Text, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

metadata = MetaData()
_key = Text(collation="C")

CHARGED, REFUNDED = "CHARGED", "REFUNDED"

# No unique key: the audit must see what the barrier has prevented.
entry = Table(
    "payment_entry",
    metadata,
    Column("gid", _key, nullable=False),
    Column("branch_id", _key, nullable=False),
    Column("verb", Text, CheckConstraint(f"verb IN ('{CHARGED}', '{REFUNDED}')"), nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("cents", BigInteger, CheckConstraint("cents > 0"), nullable=False),
    Index("payment_entry_key", "gid", "branch_id"),
)


class Entry(NamedTuple):
    """A row of `payment_entry`."""

    gid: str
    branch_id: str
    verb: str
    customer_id: str
    cents: int


ENTRIES = select(entry.c.gid, entry.c.branch_id, entry.c.verb, entry.c.customer_id, entry.c.cents)


async def write(db: AsyncConnection, entries: Sequence[Entry]) -> None:
    """Add entries to the journal."""
    await db.execute(insert(entry), [each._asdict() for each in entries])
