"""The tables of the inventory and its statements.

Every batch locks stock rows in the order of their SKUs, so batches that share SKUs wait
for each other and never deadlock.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    MetaData,
    Table,
    Text,
    Update,
    Uuid,
    bindparam,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from participants.arrays import array, arrays, unnested
from participants.inventory.reservation import (
    TRANSITIONS,
    ReservationState,
    StockChange,
    Verb,
    invalid_transition,
)
from participants.transitions import sources

Key = tuple[str, str]

metadata = MetaData()
# Compared byte by byte: the fastest, and the same order everywhere.
_key = Text(collation="C")

stock = Table(
    "stock",
    metadata,
    Column("sku", _key, primary_key=True),
    Column("available", BigInteger, CheckConstraint("available >= 0"), nullable=False),
    Column("reserved", BigInteger, CheckConstraint("reserved >= 0"), nullable=False),
    Column("sold", BigInteger, CheckConstraint("sold >= 0"), nullable=False),
    # Hot rows: with room on the page, every update is in place and does not touch the index.
    postgresql_with={"fillfactor": 50},
)

# The quantities that were put in. The audit compares them with the stock.
restock_entry = Table(
    "restock_entry",
    metadata,
    Column("restock_id", _key, primary_key=True),
    Column("sku", _key, primary_key=True),
    Column("quantity", BigInteger, CheckConstraint("quantity > 0"), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

reservation = Table(
    "reservation",
    metadata,
    Column("gid", _key, primary_key=True),
    Column("branch_id", _key, primary_key=True),
    # The id of the reservation, returned to the initiator as the result of its Try.
    Column("freeze_id", Uuid, nullable=False, unique=True),
    # No foreign key: Try holds the stock row's lock when it writes this.
    Column("sku", _key, nullable=False),
    Column("quantity", BigInteger, CheckConstraint("quantity > 0"), nullable=False),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('RESERVED', 'CONFIRMED', 'CANCELLED')"),
        nullable=False,
    ),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Every row is updated once, in place if its page has room.
    postgresql_with={"fillfactor": 70},
)


class NewReservation(NamedTuple):
    """A row of `reservation` to be written."""

    gid: str
    branch_id: str
    freeze_id: str
    # Sent in one statement with the `sku` of a StockChange.
    reserved_sku: str
    quantity: int


class StockConflictError(Exception):
    """A change would have made a count negative, or its SKU is gone. Nothing was changed."""


_new = unnested(
    "new", gid=Text(), branch_id=Text(), freeze_id=Uuid(), reserved_sku=Text(), quantity=BigInteger()
)
_keys = unnested("wanted", gid=Text(), branch_id=Text())
_changes = unnested("change", sku=Text(), available=BigInteger(), reserved=BigInteger(), sold=BigInteger())

LOCK_STOCK = (
    select(stock.c.sku, stock.c.available)
    .where(stock.c.sku == func.any(array("skus", Text())))
    .order_by(stock.c.sku)
    .with_for_update()
)
MOVE = (
    update(reservation)
    .where(
        reservation.c.gid == _keys.c.gid,
        reservation.c.branch_id == _keys.c.branch_id,
        reservation.c.state == func.any(array("sources", Text())),
    )
    .values(state=bindparam("target", type_=Text), updated_at=func.now())
    .returning(reservation.c.sku, reservation.c.quantity)
)
# LATERAL: for thousands of keys, a join would read the whole table.
_state = (
    select(reservation.c.gid, reservation.c.branch_id, reservation.c.state)
    .where(reservation.c.gid == _keys.c.gid, reservation.c.branch_id == _keys.c.branch_id)
    .limit(1)
    .lateral("found")
)
_STATES = select(_state).select_from(_keys.join(_state, true()))
# Locks in order first, because an UPDATE takes its locks in any order.
_locked = (
    select(*_changes.c)
    .select_from(_changes.join(stock, stock.c.sku == _changes.c.sku))
    .order_by(stock.c.sku)
    .with_for_update(of=stock)
    .cte("locked")
)
# This condition is decisive: no count becomes negative, whatever the gate holds.
CHANGE_STOCK = (
    update(stock)
    .where(
        stock.c.sku == _locked.c.sku,
        stock.c.available >= -_locked.c.available,
        stock.c.reserved >= -_locked.c.reserved,
        stock.c.sold >= -_locked.c.sold,
    )
    .values(
        available=stock.c.available + _locked.c.available,
        reserved=stock.c.reserved + _locked.c.reserved,
        sold=stock.c.sold + _locked.c.sold,
    )
)
# One statement, because the next transaction for the SKU waits until it is done.
RESERVE = CHANGE_STOCK.add_cte(
    insert(reservation)
    .from_select(
        ["gid", "branch_id", "freeze_id", "sku", "quantity", "state"],
        select(*_new.c, literal(ReservationState.RESERVED.value, Text)),
    )
    .cte("inserted")
)


async def stock_lock(db: AsyncConnection, skus: Iterable[str]) -> dict[str, int]:
    """Lock the rows of these SKUs until the transaction ends; return their available stock."""
    rows = await db.execute(LOCK_STOCK, {"skus": sorted(set(skus))})
    return {row.sku: row.available for row in rows}


async def stock_change(db: AsyncConnection, changes: Sequence[StockChange]) -> None:
    """Apply one change per SKU. Raises StockConflictError unless every one fits."""
    await _change_stock(db, CHANGE_STOCK, changes, {})


async def reserve(db: AsyncConnection, new: Sequence[NewReservation], changes: Sequence[StockChange]) -> None:
    """Write reservations and their changes, one change per SKU. Raises as `stock_change` does."""
    await _change_stock(db, RESERVE, changes, arrays(NewReservation._fields, new))


async def _change_stock(
    db: AsyncConnection,
    statement: Update,
    changes: Sequence[StockChange],
    beside: Mapping[str, object],
) -> None:
    result = await db.execute(statement, {**beside, **arrays(StockChange._fields, changes)})
    if result.rowcount != len(changes):
        raise StockConflictError(f"{len(changes) - result.rowcount} of {changes} do not fit the stock")


async def reservation_move(db: AsyncConnection, keys: Sequence[Key], verb: Verb) -> list[tuple[str, int]]:
    """Apply the verb to every reservation; return (SKU, quantity) of each.

    Raises InvalidTransitionError unless the transition is valid for all of them.
    """
    legal = sources(TRANSITIONS, verb)
    target = TRANSITIONS[legal[0], verb]
    wanted = arrays(("gid", "branch_id"), keys)
    rows = await db.execute(MOVE, {**wanted, "sources": legal, "target": target})
    moved = [(sku, quantity) for sku, quantity in rows]
    if len(moved) != len(keys):
        found = await db.execute(_STATES, wanted)
        raise invalid_transition(keys, {(gid, branch_id): state for gid, branch_id, state in found}, verb)
    return moved


async def reserved(db: AsyncConnection, keys: Sequence[Key]) -> set[Key]:
    """Return those of these branches that have a reservation, in whatever state."""
    rows = await db.execute(_STATES, arrays(("gid", "branch_id"), keys)) if keys else ()
    return {(row.gid, row.branch_id) for row in rows}


async def restock(db: AsyncConnection, restock_id: str, quantities: Mapping[str, int]) -> int:
    """Add stock, creating SKUs as needed; return the number of changed SKUs.

    A repeated `restock_id` adds nothing. The gates of other processes see the new stock
    when their ceilings expire, within a fraction of a second, and the gate in Redis at its
    next comparison with the database.
    """
    entries = unnested("entry", sku=Text(), quantity=BigInteger())
    rows = arrays(("sku", "quantity"), sorted(quantities.items()))
    recorded = (
        postgresql_insert(restock_entry)
        .from_select(
            ["restock_id", "sku", "quantity"],
            select(bindparam("entry_id", type_=Text), *entries.c),
        )
        .on_conflict_do_nothing()
        .returning(restock_entry.c.sku, restock_entry.c.quantity)
    )
    new = [(sku, quantity) for sku, quantity in await db.execute(recorded, {**rows, "entry_id": restock_id})]
    if not new:
        return 0
    missing = postgresql_insert(stock).from_select(
        ["sku", "available", "reserved", "sold"],
        select(entries.c.sku, literal(0), literal(0), literal(0)),
    )
    await db.execute(missing.on_conflict_do_nothing(), arrays(("sku", "quantity"), sorted(new)))
    await stock_change(db, [StockChange(sku, quantity, 0, 0) for sku, quantity in sorted(new)])
    return len(new)
