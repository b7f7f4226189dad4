"""The events that were published lately, for PostgreSQL and SQLite.

A row is written in the local transaction that delivers its branch, after Redis has accepted the event.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

metadata = MetaData()

published_event = Table(
    "published_event",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("event_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("position", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("published_at_ms", BigInteger, nullable=False),
    # True if it was seen at the broker after its time to settle.
    Column("checked", Boolean, nullable=False),
)
Index(
    "published_event_unchecked",
    published_event.c.published_at_ms,
    postgresql_where=~published_event.c.checked,
    sqlite_where=~published_event.c.checked,
)
Index("published_event_time", published_event.c.published_at_ms)

_columns = published_event.c


class Published(NamedTuple):
    """An event and its position at the broker."""

    event_id: str
    topic: str
    position: str
    body: bytes
    # Of its row; 0 before it has one.
    number: int = 0


async def write(db: AsyncConnection, events: Sequence[Published], *, now_ms: int) -> None:
    """Write events that were published now."""
    rows = [
        {
            "event_id": each.event_id,
            "topic": each.topic,
            "position": each.position,
            "body": each.body,
            "published_at_ms": now_ms,
            "checked": False,
        }
        for each in events
    ]
    await db.execute(insert(published_event), rows)


async def unchecked(db: AsyncConnection, *, before_ms: int, limit: int) -> list[Published]:
    """Return events that were published before and not checked since. Others skip them until the commit."""
    statement = (
        select(_columns.event_id, _columns.topic, _columns.position, _columns.body, _columns.number)
        .where(~_columns.checked, _columns.published_at_ms < before_ms)
        .order_by(_columns.published_at_ms)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [Published(*row) for row in await db.execute(statement)]


async def set_checked(db: AsyncConnection, numbers: Collection[int]) -> None:
    """Mark events that were seen at the broker."""
    await db.execute(update(published_event).where(_columns.number.in_(numbers)).values(checked=True))


async def uncheck_all(db: AsyncConnection) -> None:
    """Mark all events as not checked: the broker may have lost them."""
    await db.execute(update(published_event).where(_columns.checked).values(checked=False))


async def move(db: AsyncConnection, events: Sequence[Published], *, now_ms: int) -> None:
    """Write the new positions of events that were published again now."""
    statement = (
        update(published_event)
        .where(_columns.number == bindparam("of_number"))
        .values(position=bindparam("to_position"), published_at_ms=bindparam("now_ms"))
    )
    rows = [{"of_number": each.number, "to_position": each.position, "now_ms": now_ms} for each in events]
    await db.execute(statement, rows)


async def purge(db: AsyncConnection, *, before_ms: int) -> None:
    """Delete events that were checked and are older."""
    await db.execute(delete(published_event).where(_columns.checked, _columns.published_at_ms < before_ms))
