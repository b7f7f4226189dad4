"""The table of coupons and its statements.

Every batch locks coupon rows in the order of their ids, so batches that need the same
coupons wait for each other and never deadlock. Locked rows cannot change before they
are written.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    MetaData,
    Table,
    Text,
    func,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from participants.arrays import array, arrays, unnested
from participants.coupon.coupon import Coupon, CouponState, Key

metadata = MetaData()
# Compared byte by byte: the fastest, and the same order everywhere.
_key = Text(collation="C")

coupon = Table(
    "coupon",
    metadata,
    Column("coupon_id", _key, primary_key=True),
    Column("state", Text, CheckConstraint("state IN ('AVAILABLE', 'FROZEN', 'USED')"), nullable=False),
    # The branch that holds it.
    Column("gid", _key),
    Column("branch_id", _key),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("(state = 'AVAILABLE') = (gid IS NULL)"),
    CheckConstraint("(gid IS NULL) = (branch_id IS NULL)"),
    # Rows are updated in place if their page has room.
    postgresql_with={"fillfactor": 70},
)

_ids = func.any(array("coupon_ids", Text()))
_freezes = unnested("freeze", coupon_id=Text(), gid=Text(), branch_id=Text())

LOCK = (
    select(coupon.c.coupon_id, coupon.c.state, coupon.c.gid, coupon.c.branch_id)
    .where(coupon.c.coupon_id == _ids)
    .order_by(coupon.c.coupon_id)
    .with_for_update()
)
FREEZE = (
    update(coupon)
    .where(coupon.c.coupon_id == _freezes.c.coupon_id)
    .values(
        state=literal(CouponState.FROZEN.value, Text),
        gid=_freezes.c.gid,
        branch_id=_freezes.c.branch_id,
        updated_at=func.now(),
    )
)
USE = (
    update(coupon)
    .where(coupon.c.coupon_id == _ids)
    .values(state=literal(CouponState.USED.value, Text), updated_at=func.now())
)
_UNFREEZE = (
    update(coupon)
    .where(coupon.c.coupon_id == _ids)
    .values(
        state=literal(CouponState.AVAILABLE.value, Text), gid=null(), branch_id=null(), updated_at=func.now()
    )
)


async def coupon_lock(db: AsyncConnection, coupon_ids: Iterable[str]) -> dict[str, Coupon]:
    """Lock these coupons until the transaction ends; return those that exist, by id."""
    rows = await db.execute(LOCK, {"coupon_ids": sorted(set(coupon_ids))})
    return {
        coupon_id: Coupon(
            coupon_id=coupon_id,
            state=CouponState(state),
            holder=None if gid is None else (gid, branch_id),
        )
        for coupon_id, state, gid, branch_id in rows
    }


async def coupon_freeze(db: AsyncConnection, freezes: Sequence[tuple[str, Key]]) -> None:
    """Assign each locked coupon to its branch."""
    rows = [(coupon_id, gid, branch_id) for coupon_id, (gid, branch_id) in freezes]
    await db.execute(FREEZE, arrays(("coupon_id", "gid", "branch_id"), rows))


async def coupon_use(db: AsyncConnection, coupon_ids: Sequence[str]) -> None:
    """Mark locked coupons as used; their holder remains recorded."""
    await db.execute(USE, {"coupon_ids": coupon_ids})


async def coupon_unfreeze(db: AsyncConnection, coupon_ids: Sequence[str]) -> None:
    """Make locked coupons available again."""
    await db.execute(_UNFREEZE, {"coupon_ids": coupon_ids})


async def issue(db: AsyncConnection, coupon_ids: Iterable[str]) -> int:
    """Create available coupons; return the number of new ones. Existing ones do not change."""
    issued = unnested("issued", coupon_id=Text())
    statement = insert(coupon).from_select(
        ["coupon_id", "state"], select(issued.c.coupon_id, literal(CouponState.AVAILABLE.value, Text))
    )
    rows = arrays(("coupon_id",), [(coupon_id,) for coupon_id in sorted(set(coupon_ids))])
    new = statement.on_conflict_do_nothing().returning(coupon.c.coupon_id)
    return len((await db.execute(new, rows)).all())
