"""Orders as a participant: Try opens, Confirm confirms, Cancel cancels."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.order import store
from participants.order.order import Verb, opened, unique
from participants.order.requests import OpenOrder
from tcc import Branch, Participant

Items = Sequence[tuple[Branch, OpenOrder]]


class Open:
    """The action `open_order`."""

    async def try_batch(self, items: Items, db: AsyncConnection) -> list[Any]:
        order_ids = [request.order_id for _, request in items]
        first = unique(order_ids)
        new = await store.order_open(db, [_row(*items[position]) for position in first])
        return list(opened(order_ids, {position for position in first if order_ids[position] in new}))

    async def confirm_batch(self, items: Items, db: AsyncConnection) -> None:
        await store.order_move(db, [branch.key for branch, _ in items], Verb.CONFIRM)

    async def cancel_batch(self, items: Items, db: AsyncConnection) -> None:
        await store.order_move(db, [branch.key for branch, _ in items], Verb.CANCEL)


def _row(branch: Branch, request: OpenOrder) -> store.NewOrder:
    return store.NewOrder(
        order_id=request.order_id,
        gid=branch.gid,
        branch_id=branch.branch_id,
        customer_id=request.customer_id,
        sku=request.sku,
        quantity=request.quantity,
        coupon_id=request.coupon_id,
    )


def order(database: AsyncEngine) -> Participant:
    """Return the participant over its database, whose schema must exist."""
    participant = Participant("order", database=database)
    participant.action("open_order", OpenOrder, needs_request=False)(Open)
    return participant
