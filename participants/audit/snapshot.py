"""The data of the databases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, Select, func, select
from sqlalchemy.ext.asyncio import create_async_engine

from participants.coupon.coupon import CouponState
from participants.coupon.store import coupon
from participants.inventory.reservation import ReservationState
from participants.inventory.store import reservation, restock_entry, stock
from participants.mail.store import RECEIPTS, Receipt
from participants.order.order import OrderState
from participants.order.store import orders
from participants.payment.store import ENTRIES, Entry
from participants.shipping.store import SHIPMENTS, Shipment


@dataclass(frozen=True, kw_only=True, slots=True)
class Stock:
    sku: str
    available: int
    reserved: int
    sold: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    gid: str
    branch_id: str
    sku: str
    quantity: int
    state: ReservationState


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldCoupon:
    """A coupon that is not available, with its holder."""

    coupon_id: str
    state: CouponState
    gid: str
    branch_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    order_id: str
    gid: str
    branch_id: str
    coupon_id: str | None
    state: OrderState
    is_local: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The data of the databases."""

    stocks: Sequence[Stock]
    # SKU to the total quantity that was put in.
    restocked: Mapping[str, int]
    reservations: Sequence[Reservation]
    coupons: Sequence[HeldCoupon]
    orders: Sequence[Order]
    # Empty if the shop takes no payments and sends no receipts.
    payments: Sequence[Entry] = ()
    receipts: Sequence[Receipt] = ()
    # None if the shop ships nothing.
    shipments: Sequence[Shipment] | None = None


_STOCK = select(stock.c.sku, stock.c.available, stock.c.reserved, stock.c.sold)
_RESTOCKED = select(restock_entry.c.sku, func.sum(restock_entry.c.quantity).label("quantity")).group_by(
    restock_entry.c.sku
)
_RESERVATIONS = select(
    reservation.c.gid,
    reservation.c.branch_id,
    reservation.c.sku,
    reservation.c.quantity,
    reservation.c.state,
)
_COUPONS = select(coupon.c.coupon_id, coupon.c.state, coupon.c.gid, coupon.c.branch_id).where(
    coupon.c.state != CouponState.AVAILABLE.value
)
_ORDERS = select(
    orders.c.order_id,
    orders.c.gid,
    orders.c.branch_id,
    orders.c.coupon_id,
    orders.c.state,
    orders.c.is_local,
)


async def read_snapshot(
    *, inventory: str, coupon: str, order: str, payment: str = "", mail: str = "", shipping: str = ""
) -> Snapshot:
    """Read the databases at these URLs, each in one snapshot."""
    stocks, restocked, reservations = await _read(inventory, _STOCK, _RESTOCKED, _RESERVATIONS)
    [coupons] = await _read(coupon, _COUPONS)
    [order_rows] = await _read(order, _ORDERS)
    [entries] = await _read(payment, ENTRIES) if payment else [()]
    [receipts] = await _read(mail, RECEIPTS) if mail else [()]
    [shipments] = await _read(shipping, SHIPMENTS) if shipping else [()]
    return Snapshot(
        stocks=[Stock(**row) for row in stocks],
        restocked={row["sku"]: int(row["quantity"]) for row in restocked},
        reservations=[
            Reservation(**{**row, "state": ReservationState(row["state"])}) for row in reservations
        ],
        coupons=[HeldCoupon(**{**row, "state": CouponState(row["state"])}) for row in coupons],
        orders=[Order(**{**row, "state": OrderState(row["state"])}) for row in order_rows],
        payments=[Entry(**row) for row in entries],
        receipts=[Receipt(**row) for row in receipts],
        shipments=[Shipment(**row) for row in shipments] if shipping else None,
    )


async def _read(url: str, *statements: Select[Any]) -> list[Sequence[RowMapping]]:
    """Return the rows of several statements, all from one snapshot."""
    database = create_async_engine(url, isolation_level="REPEATABLE READ")
    try:
        async with database.begin() as db:
            return [(await db.execute(statement)).mappings().all() for statement in statements]
    finally:
        await database.dispose()
