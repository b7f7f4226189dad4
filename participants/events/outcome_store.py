"""How far the coordinator's transactions were read, and which of them had not ended then."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

metadata = MetaData()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# One row: all transactions that were created before were read.
outcome_cursor = Table(
    "outcome_cursor",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("read_to_us", BigInteger, nullable=False),
)

open_transaction = Table(
    "open_transaction",
    metadata,
    Column("gid", Text, primary_key=True),
    # True if the event that it is stuck was published.
    Column("stuck", Boolean, nullable=False),
    Column("looked_at_us", BigInteger, nullable=False),
)
_columns = open_transaction.c


def _us(moment: datetime) -> int:
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def _moment(us: int) -> datetime:
    seconds, microseconds = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)


async def read_to(db: AsyncConnection, *, otherwise: datetime) -> datetime:
    """Return the time up to which all were read, locked until the commit; the first time, `otherwise`."""
    found = await db.scalar(select(outcome_cursor.c.read_to_us).with_for_update())
    if found is None:
        await db.execute(insert(outcome_cursor), {"number": 1, "read_to_us": _us(otherwise)})
        return otherwise
    return _moment(found)


async def set_read_to(db: AsyncConnection, moment: datetime) -> None:
    """Write the time up to which all were read."""
    await db.execute(update(outcome_cursor).values(read_to_us=_us(moment)))


async def add_open(db: AsyncConnection, gids: Sequence[str]) -> None:
    """Remember transactions that had not ended."""
    if gids:
        rows = [{"gid": gid, "stuck": False, "looked_at_us": 0} for gid in gids]
        await db.execute(insert(open_transaction), rows)


async def open_ones(db: AsyncConnection, *, limit: int) -> dict[str, bool]:
    """Return those that were checked longest ago, each with whether it is known to be stuck."""
    statement = (
        select(_columns.gid, _columns.stuck)
        .order_by(_columns.looked_at_us)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return {row.gid: row.stuck for row in await db.execute(statement)}


async def close(db: AsyncConnection, gids: Collection[str]) -> None:
    """Forget transactions that have ended."""
    await db.execute(delete(open_transaction).where(_columns.gid.in_(gids)))


async def looked_at(
    db: AsyncConnection, gids: Collection[str], *, stuck: Collection[str], now: datetime
) -> None:
    """Write that these were checked, and which of them are stuck."""
    await db.execute(update(open_transaction).where(_columns.gid.in_(gids)).values(looked_at_us=_us(now)))
    await db.execute(update(open_transaction).where(_columns.gid.in_(stuck)).values(stuck=True))
