"""The shipments."""

from typing import NamedTuple

from sqlalchemy import Column, Index, MetaData, Table, Text, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

metadata = MetaData()
_key = Text().with_variant(Text(collation="C"), "postgresql")

# No unique key: the audit must see what the inbox has prevented.
shipment = Table(
    "shipment",
    metadata,
    Column("gid", _key, nullable=False),
    Column("branch_id", _key, nullable=False),
    Column("order_id", Text, nullable=False),
    Index("shipment_key", "gid", "branch_id"),
)


class Shipment(NamedTuple):
    """A row of `shipment`. The branch is the one that published the event."""

    gid: str
    branch_id: str
    order_id: str


SHIPMENTS = select(shipment.c.gid, shipment.c.branch_id, shipment.c.order_id)


async def write(db: AsyncConnection, row: Shipment) -> None:
    """Write a shipment."""
    await db.execute(insert(shipment), row._asdict())
