"""Placing one order with each fault of an initiator, and the result that the initiator received."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError

from participants.coupon.requests import UseCoupon
from participants.demo.plan import InitiatorFault, PlannedOrder
from participants.inventory.requests import ReserveStock
from participants.mail.requests import SendReceipt
from participants.order.requests import OpenOrder
from participants.order.store import NewOrder, order_place
from participants.payment.requests import ChargeCard
from participants.shipping import ORDER_CONFIRMED, TOPIC
from tcc import Participant
from tcc.client.client import Client
from tcc.client.interactive import InteractiveTransaction
from tcc.client.outcome import Outcome
from tcc.client.requests import BranchRequest
from tcc.errors import DeadlineExceeded, PreconditionFailed, TccError, TransactionCancelled, Unavailable

INITIATOR = "demo"
ORDER = "order"

EXPIRY_S = 20.0
VANISHED_EXPIRY_S = 1.5
# The timeout of an initiator; the client retries until then.
_PATIENCE_S = 40.0
_PRICE_CENTS = 9_900
# The latest time at which a response is lost.
_ANSWER_LOST_S = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderResult:
    """The result of one order for its initiator."""

    gid: str
    # True if the response was CONFIRM; None without a response.
    confirmed: bool | None = None
    # Seconds from the first request to the decision; None without one.
    latency_s: float | None = None
    # The error, if it got no decision although it requested one.
    error: str = ""
    # When the initiator was done with it, by `time.monotonic()`.
    done_at: float = field(default_factory=time.monotonic)


class ChangedMindError(Exception):
    """The customer has changed their mind."""


async def place(
    order: PlannedOrder, client: Client, other: Client, orders: Participant, *, is_paid: bool = False
) -> OrderResult:
    """Place an order with its fault.

    `other`: a client with another connection. `orders`: the order service of this process, which commits
    some orders itself. `is_paid`: with a payment, which is a saga, and a receipt, which is a message.
    """
    started = time.monotonic()
    try:
        confirmed = await _place(
            order, purchase(order) if is_paid else branches(order), client, other, orders
        )
    except TccError as error:
        return OrderResult(gid=order.gid, error=f"{type(error).__name__} {error}")
    latency_s = None if confirmed is None else time.monotonic() - started
    return OrderResult(gid=order.gid, confirmed=confirmed, latency_s=latency_s)


async def _place(
    order: PlannedOrder, wanted: Sequence[BranchRequest], client: Client, other: Client, orders: Participant
) -> bool | None:
    match order.initiator_fault:
        case InitiatorFault.ONE_SHOT:
            return (await _execute(order, wanted, client)).confirmed
        case InitiatorFault.LOST_ANSWER:
            with contextlib.suppress(DeadlineExceeded, Unavailable):
                await _execute(order, wanted, client, timeout_s=order.draw * _ANSWER_LOST_S)
            return (await _execute(order, wanted, other)).confirmed
        case InitiatorFault.LOCAL_FIRST | InitiatorFault.CHANGES_MIND:
            return await _commit_first(order, wanted, client, orders)
        case InitiatorFault.VANISHES:
            await _vanish(order, wanted, client, orders)
            return None


async def _execute(
    order: PlannedOrder, wanted: Sequence[BranchRequest], client: Client, timeout_s: float = _PATIENCE_S
) -> Outcome:
    return await client.execute(
        wanted, gid=order.gid, expiry_s=EXPIRY_S, timeout_s=timeout_s, raise_on_cancel=False
    )


async def _commit_first(
    order: PlannedOrder, wanted: Sequence[BranchRequest], client: Client, orders: Participant
) -> bool:
    transaction = client.transaction(gid=order.gid, expiry_s=order.local_expiry_s, timeout_s=_PATIENCE_S)
    try:
        async with transaction:
            await _buy(order, transaction, wanted, orders)
    except TransactionCancelled:
        return False
    except (ChangedMindError, TccError, DBAPIError):
        # Nothing more is requested: it is decided, or the coordinator asks the order service.
        outcome = transaction.outcome or await client.wait(order.gid, timeout_s=_PATIENCE_S)
        return outcome.confirmed
    assert transaction.outcome is not None
    return transaction.outcome.confirmed


async def _vanish(
    order: PlannedOrder, wanted: Sequence[BranchRequest], client: Client, orders: Participant
) -> None:
    transaction = client.transaction(gid=order.gid, expiry_s=VANISHED_EXPIRY_S, timeout_s=_PATIENCE_S)
    await transaction.begin()
    with contextlib.suppress(TransactionCancelled, PreconditionFailed, DBAPIError):
        await _buy(order, transaction, wanted, orders, share=order.draw)


async def _buy(
    order: PlannedOrder,
    transaction: InteractiveTransaction,
    wanted: Sequence[BranchRequest],
    orders: Participant,
    *,
    share: float = 1.0,
) -> None:
    """Try one branch after the other, and commit the order itself last. `share`: of these steps."""
    tried = []
    for branch in wanted:
        if branch.kind == "message":
            transaction.message(branch.participant, branch.action, branch.payload)
        elif branch.participant != ORDER:
            tried.append((branch, branch.kind))
    steps = min(1 + int(share * (len(tried) + 1)), len(tried) + 1)
    for branch, kind in tried[:steps]:
        await transaction.try_(branch.participant, branch.action, branch.payload, kind=kind)
    if steps > len(tried):
        async with transaction.local(orders, branch_id=ORDER) as db:
            await order_place(db, _row(order))
            _think_again(order)


def _row(order: PlannedOrder) -> NewOrder:
    return NewOrder(
        order_id=order.gid,
        gid=order.gid,
        branch_id=ORDER,
        customer_id=order.customer_id,
        sku=order.sku,
        quantity=order.quantity,
        coupon_id=order.coupon_id,
    )


def _think_again(order: PlannedOrder) -> None:
    if order.initiator_fault is InitiatorFault.CHANGES_MIND:
        raise ChangedMindError(order.customer_id)


def purchase(order: PlannedOrder) -> list[BranchRequest]:
    """Return the branches of an order that is paid: the card is charged once all is reserved."""
    charge = ChargeCard(customer_id=order.customer_id, cents=order.quantity * _PRICE_CENTS)
    receipt = SendReceipt(customer_id=order.customer_id, order_id=order.gid)
    return [
        *branches(order),
        BranchRequest("payment", "charge", charge, kind="saga", stage=1),
        BranchRequest("mail", "send_receipt", receipt, kind="message"),
        *([BranchRequest("events", "publish", _event(order), kind="message")] if order.ships else []),
    ]


def _event(order: PlannedOrder) -> dict[str, Any]:
    return {
        "topic": TOPIC,
        "type": ORDER_CONFIRMED,
        "subject": order.gid,
        "data": {"order_id": order.gid, "sku": order.sku, "quantity": order.quantity},
    }


def branches(order: PlannedOrder) -> list[BranchRequest]:
    """Return the branches of an order."""
    stock = ReserveStock(sku=order.sku, quantity=order.quantity)
    opened = OpenOrder(
        order_id=order.gid,
        customer_id=order.customer_id,
        sku=order.sku,
        quantity=order.quantity,
        coupon_id=order.coupon_id,
    )
    coupons = [] if order.coupon_id is None else [UseCoupon(coupon_id=order.coupon_id)]
    return [
        BranchRequest("inventory", "reserve_stock", stock),
        *(BranchRequest("coupon", "use_coupon", coupon) for coupon in coupons),
        BranchRequest(ORDER, "open_order", opened),
    ]
