"""The table of orders and its statements."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    false,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from participants.arrays import array, arrays, unnested
from participants.order.order import TRANSITIONS, Key, OrderState, Verb, invalid_transition
from participants.transitions import sources

metadata = MetaData()
# Compared byte by byte: the fastest, and the same order everywhere.
_key = Text(collation="C")

orders = Table(
    "orders",
    metadata,
    Column("order_id", _key, primary_key=True),
    Column("gid", _key, nullable=False),
    Column("branch_id", _key, nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("sku", Text, nullable=False),
    Column("quantity", BigInteger, CheckConstraint("quantity > 0"), nullable=False),
    Column("coupon_id", Text),
    Column("state", Text, CheckConstraint("state IN ('PENDING', 'CONFIRMED', 'CANCELLED')"), nullable=False),
    # The order service has committed it before its transaction was decided, and that decided it.
    Column("is_local", Boolean, nullable=False, server_default=false()),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("gid", "branch_id"),
    # Every row is updated once, in place if its page has room.
    postgresql_with={"fillfactor": 70},
)


class NewOrder(NamedTuple):
    """A row of `orders` to be written."""

    order_id: str
    gid: str
    branch_id: str
    customer_id: str
    sku: str
    quantity: int
    coupon_id: str | None


_new = unnested(
    "new",
    order_id=Text(),
    gid=Text(),
    branch_id=Text(),
    customer_id=Text(),
    sku=Text(),
    quantity=BigInteger(),
    coupon_id=Text(),
)
_keys = unnested("wanted", gid=Text(), branch_id=Text())
_is_wanted = (orders.c.gid == _keys.c.gid) & (orders.c.branch_id == _keys.c.branch_id)

OPEN = (
    insert(orders)
    .from_select([*NewOrder._fields, "state"], select(*_new.c, literal(OrderState.PENDING.value, Text)))
    .on_conflict_do_nothing(index_elements=["order_id"])
    .returning(orders.c.order_id)
)
PLACE = insert(orders).values(
    {name: bindparam(name) for name in NewOrder._fields}
    | {"state": OrderState.CONFIRMED.value, "is_local": True}
)
MOVE = (
    update(orders)
    .where(_is_wanted, orders.c.state == func.any(array("sources", Text())))
    .values(state=bindparam("target", type_=Text), updated_at=func.now())
)
_STATES = select(orders.c.gid, orders.c.branch_id, orders.c.state).where(_is_wanted)


async def order_open(db: AsyncConnection, new: Sequence[NewOrder]) -> set[str]:
    """Write orders, no number twice; return the numbers that were not taken."""
    # Always in the same order, so that batches that share numbers cannot deadlock.
    ordered = sorted(new, key=lambda row: row.order_id)
    opened = await db.execute(OPEN, arrays(NewOrder._fields, ordered))
    return set(opened.scalars())


async def order_place(db: AsyncConnection, new: NewOrder) -> None:
    """Write an order whose transaction is decided by the commit of this very row."""
    await db.execute(PLACE, new._asdict())


async def order_move(db: AsyncConnection, keys: Sequence[Key], verb: Verb) -> None:
    """Apply the verb to every order.

    Raises InvalidTransitionError unless the transition is valid for all of them.
    """
    legal = sources(TRANSITIONS, verb)
    wanted = arrays(("gid", "branch_id"), keys)
    result = await db.execute(MOVE, {**wanted, "sources": legal, "target": TRANSITIONS[legal[0], verb]})
    if result.rowcount != len(keys):
        found = await db.execute(_STATES, wanted)
        raise invalid_transition(keys, {(gid, branch_id): state for gid, branch_id, state in found}, verb)
